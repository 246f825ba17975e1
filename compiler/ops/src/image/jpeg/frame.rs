//! Tables, components and the picture that they become.

use super::blocks::{self, BLOCK, ZIGZAG};
use super::color::{self, Plane};
use super::huffman::Table;
use super::{Stop, bad};
use crate::evaluate::Context;
use crate::image::decode::Raster;

/// What segments say about those that follow.
#[derive(Default)]
pub(super) struct Header {
    pub jfif: bool,
    /// The colour transform of an Adobe segment.
    pub adobe: Option<u8>,
    /// MCUs between restarts; 0 for none.
    pub restart: usize,
    quantisation: [Option<[u16; BLOCK]>; 4],
    pub dc: [Option<Table>; 4],
    pub ac: [Option<Table>; 4],
}

impl Header {
    pub fn quantisation_tables(&mut self, mut segment: &[u8]) -> Result<(), Stop> {
        while let [kind, rest @ ..] = segment {
            let (wide, index) = (kind >> 4, usize::from(kind & 15));
            let bytes = if wide == 0 { BLOCK } else { 2 * BLOCK };
            let (Some(values), 0..=3) = (rest.get(..bytes), index) else {
                return bad("a quantisation table");
            };
            let mut table = [0; BLOCK];
            for (place, &to) in ZIGZAG.iter().enumerate() {
                table[to] = match wide {
                    0 => u16::from(values[place]),
                    _ => u16::from_be_bytes([values[2 * place], values[2 * place + 1]]),
                };
            }
            self.quantisation[index] = Some(table);
            segment = &rest[bytes..];
        }
        Ok(())
    }

    pub fn huffman_tables(&mut self, mut segment: &[u8]) -> Result<(), Stop> {
        while let [kind, rest @ ..] = segment {
            let Some(counts) = rest.get(..16) else { return bad("a Huffman table is cut off") };
            let count: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let Some(symbols) = rest.get(16..16 + count) else { return bad("a Huffman table is cut off") };
            let table = Table::new(counts, symbols)?;
            match (
                kind >> 4,
                self.dc.get_mut(usize::from(kind & 15)),
                self.ac.get_mut(usize::from(kind & 15)),
            ) {
                (0, Some(place), _) | (1, _, Some(place)) => *place = Some(table),
                _ => return bad("a Huffman table without a place"),
            }
            segment = &rest[16 + count..];
        }
        Ok(())
    }

    pub fn restart_interval(&mut self, segment: &[u8]) -> Result<(), Stop> {
        let &[high, low] = segment else { return bad("a restart interval") };
        self.restart = usize::from(u16::from_be_bytes([high, low]));
        Ok(())
    }

    pub fn quantisation(&self, index: usize) -> Result<[u16; BLOCK], Stop> {
        match self.quantisation.get(index) {
            Some(Some(table)) => Ok(*table),
            _ => bad("a quantisation table is missing"),
        }
    }
}

/// One component: samples in blocks of 8 x 8.
pub(super) struct Component {
    pub id: u8,
    /// Blocks an MCU along each axis.
    pub across: usize,
    pub down: usize,
    pub quantisation_index: usize,
    /// As it stood when the component's first scan began.
    pub quantisation: Option<[u16; BLOCK]>,
    /// Samples of the picture along each axis.
    pub width: usize,
    pub height: usize,
    /// Blocks along the width, whole MCUs.
    pub blocks_across: usize,
    /// Of all blocks, in the natural order.
    pub coefficients: Vec<i16>,
}

/// A frame: the picture's size and its components.
pub(super) struct Frame {
    width: usize,
    height: usize,
    pub progressive: bool,
    /// MCUs along each axis.
    pub mcus_across: usize,
    pub mcus_down: usize,
    pub components: Vec<Component>,
}

impl Frame {
    pub fn read(cx: &Context<'_>, segment: &[u8], progressive: bool) -> Result<Self, Stop> {
        let &[precision, h1, h0, w1, w0, count, ref parts @ ..] = segment else {
            return bad("a frame is cut off");
        };
        if precision != 8 || !matches!(count, 1 | 3) {
            return Err(Stop::OtherKind);
        }
        let (height, width) =
            (usize::from(u16::from_be_bytes([h1, h0])), usize::from(u16::from_be_bytes([w1, w0])));
        if parts.len() != 3 * usize::from(count) || height == 0 || width == 0 {
            return bad("a frame without a size or components");
        }
        let factors =
            parts.chunks_exact(3).map(|part| (usize::from(part[1] >> 4), usize::from(part[1] & 15)));
        if factors.clone().any(|(across, down)| !(1..=4).contains(&across) || !(1..=4).contains(&down)) {
            return bad("sampling factors are not 1 to 4");
        }
        let most = factors.clone().fold((1, 1), |most, own| (most.0.max(own.0), most.1.max(own.1)));
        // Components that are not a whole part of the largest need another filter.
        if factors.clone().any(|(across, down)| most.0 % across != 0 || most.1 % down != 0) {
            return Err(Stop::OtherKind);
        }
        let (mcus_across, mcus_down) = (width.div_ceil(8 * most.0), height.div_ceil(8 * most.1));
        let mut components = Vec::new();
        for (part, (across, down)) in parts.chunks_exact(3).zip(factors) {
            // A single component has MCUs of one block.
            let (across, down, most) = if count == 1 { (1, 1, (1, 1)) } else { (across, down, most) };
            let per_axis = |size: usize, most: usize| size.div_ceil(8 * most);
            let (blocks_across, blocks_down) =
                (per_axis(width, most.0) * across, per_axis(height, most.1) * down);
            let cells = blocks_across * blocks_down * BLOCK;
            // The coefficients, and the samples that they become.
            cx.spend(3 * cells)?;
            components.push(Component {
                id: part[0],
                across,
                down,
                quantisation_index: usize::from(part[2]),
                quantisation: None,
                width: (width * across).div_ceil(most.0),
                height: (height * down).div_ceil(most.1),
                blocks_across,
                coefficients: vec![0; cells],
            });
        }
        let one = count == 1;
        let mcus = if one { (width.div_ceil(8), height.div_ceil(8)) } else { (mcus_across, mcus_down) };
        Ok(Self { width, height, progressive, mcus_across: mcus.0, mcus_down: mcus.1, components })
    }

    /// The pixels: one channel, or red, green and blue.
    pub fn picture(&self, cx: &Context<'_>, header: &Header) -> Result<Raster, Stop> {
        let mut planes = Vec::new();
        for component in &self.components {
            let Some(quantisation) = &component.quantisation else { return bad("a component has no scan") };
            cx.work(component.coefficients.len())?;
            planes.push(blocks::samples(component, quantisation));
        }
        let most = |part: fn(&Component) -> usize| self.components.iter().map(part).max().unwrap_or(1);
        let (across, down) = (most(|c| c.across), most(|c| c.down));
        let channels = self.components.len();
        let count = cx.count(&[self.width, self.height, channels])?;
        cx.spend(count)?;
        cx.work(count)?;
        let planes = self.components.iter().zip(&planes).map(|(component, samples)| Plane {
            samples,
            stride: component.blocks_across * 8,
            width: component.width,
            height: component.height,
            across: across / component.across,
            down: down / component.down,
        });
        let planes = planes.collect::<Vec<_>>();
        let mut pixels = Vec::with_capacity(count);
        let transformed = self.is_luminance_and_chroma(header);
        let mut rows = vec![vec![0; self.width]; channels];
        for y in 0..self.height {
            for (plane, row) in planes.iter().zip(&mut rows) {
                plane.row(y, row);
            }
            match &rows[..] {
                [luminance, blue, red] => {
                    for ((&y, &cb), &cr) in luminance.iter().zip(blue).zip(red) {
                        pixels.extend(if transformed { color::rgb(y, cb, cr) } else { [y, cb, cr] });
                    }
                }
                rows => rows.iter().take(1).for_each(|row| pixels.extend_from_slice(row)),
            }
        }
        Ok(Raster { width: self.width, height: self.height, channels, pixels })
    }

    /// Whether three components are Y, Cb and Cr rather than red, green and blue.
    fn is_luminance_and_chroma(&self, header: &Header) -> bool {
        let ids: Vec<u8> = self.components.iter().map(|component| component.id).collect();
        match header.adobe {
            _ if header.jfif => true,
            Some(transform) => transform != 0,
            None => ids != *b"RGB",
        }
    }
}
