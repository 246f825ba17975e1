//! JPEG pictures with the bits of the common reference decoder: accurate integer transforms, triangular upsampling, table
//! colours (ITU-T T.81; JFIF 1.02). Sequential and progressive Huffman coding of 8 bits, one or three components.

mod blocks;
mod color;
mod frame;
mod huffman;
mod scan;

use frame::{Frame, Header};
use scan::Scan;

use super::decode::Raster;
use crate::EvalError;
use crate::evaluate::Context;

/// Why a file is not decoded here.
pub(super) enum Stop {
    /// It is of a kind that another decoder may know.
    OtherKind,
    /// It is broken.
    Bad(String),
    /// The evaluation ends.
    Failed(EvalError),
}

impl From<EvalError> for Stop {
    fn from(error: EvalError) -> Self {
        Stop::Failed(error)
    }
}

fn bad<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Bad(reason.into()))
}

/// The picture of a file that begins with the marker of a JPEG.
pub(super) fn decode(cx: &Context<'_>, bytes: &[u8]) -> Result<Raster, Stop> {
    let mut header = Header::default();
    let mut frame: Option<Frame> = None;
    let mut position = 2;
    loop {
        let marker = next_marker(bytes, &mut position)?;
        match marker {
            0xd9 => break,
            // Restarts, and markers without a length.
            0x01 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let segment = segment(bytes, &mut position)?;
        match marker {
            0xc0..=0xc2 if frame.is_some() => return bad("two frames"),
            0xc0..=0xc2 => frame = Some(Frame::read(cx, segment, marker == 0xc2)?),
            0xc4 => header.huffman_tables(segment)?,
            0xc3 | 0xc5..=0xcf => return Err(Stop::OtherKind),
            0xdb => header.quantisation_tables(segment)?,
            0xdd => header.restart_interval(segment)?,
            0xda => {
                let Some(frame) = &mut frame else { return bad("a scan before its frame") };
                position += Scan::read(&header, frame, segment)?.decode(cx, frame, &bytes[position..])?;
            }
            0xe0 if segment.starts_with(b"JFIF\0") => header.jfif = true,
            0xee if segment.starts_with(b"Adobe") => header.adobe = segment.get(11).copied(),
            _ => {}
        }
    }
    match frame {
        Some(frame) => frame.picture(cx, &header),
        None => bad("it has no frame"),
    }
}

/// The code of the next marker; what stands before it is skipped.
fn next_marker(bytes: &[u8], position: &mut usize) -> Result<u8, Stop> {
    loop {
        match bytes.get(*position..*position + 2) {
            None => return bad("it ends before its end marker"),
            Some(&[0xff, code]) if code != 0 && code != 0xff => {
                *position += 2;
                return Ok(code);
            }
            Some(_) => *position += 1,
        }
    }
}

/// What a marker's segment holds after its length.
fn segment<'b>(bytes: &'b [u8], position: &mut usize) -> Result<&'b [u8], Stop> {
    let Some(&[high, low]) = bytes.get(*position..*position + 2) else { return bad("a segment is cut off") };
    let length = usize::from(u16::from_be_bytes([high, low]));
    match bytes.get(*position + 2..*position + length) {
        Some(segment) => {
            *position += length;
            Ok(segment)
        }
        None => bad("a segment is cut off"),
    }
}
