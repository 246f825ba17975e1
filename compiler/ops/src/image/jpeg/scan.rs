//! Scans: the coefficients of some components, all or a part of their bits.

use super::blocks::{BLOCK, ZIGZAG};
use super::frame::{Frame, Header};
use super::huffman::{Bits, Table};
use super::{Stop, bad};
use crate::evaluate::Context;

/// One component of a scan.
struct Part<'h> {
    component: usize,
    dc: Option<&'h Table>,
    ac: Option<&'h Table>,
    /// The DC coefficient of the block before.
    before: i32,
}

/// A scan that is about to be read.
pub(super) struct Scan<'h> {
    parts: Vec<Part<'h>>,
    /// Coefficients `first..=last` in zigzag order.
    first: usize,
    last: usize,
    /// The bits above were known before: this scan has one more of each coefficient.
    refines: bool,
    /// The lowest bit that this scan has.
    low: u32,
    restart: usize,
    /// Blocks that still have no coefficients to come.
    empty: u32,
    progressive: bool,
}

impl<'h> Scan<'h> {
    /// From the segment of its marker.
    pub fn read(header: &'h Header, frame: &mut Frame, segment: &[u8]) -> Result<Self, Stop> {
        let [count, rest @ ..] = segment else { return bad("a scan is cut off") };
        let count = usize::from(*count);
        let (Some(choices), Some(&[first, last, bits])) = (rest.get(..2 * count), rest.get(2 * count..))
        else {
            return bad("a scan is cut off");
        };
        let mut parts: Vec<Part<'h>> = Vec::new();
        for choice in choices.chunks_exact(2) {
            let (id, tables) = (choice[0], choice[1]);
            let Some(component) = frame.components.iter().position(|component| component.id == id) else {
                return bad("a scan of an unknown component");
            };
            if parts.iter().any(|part| part.component == component) {
                return bad("a scan has a component twice");
            }
            let index = frame.components[component].quantisation_index;
            if frame.components[component].quantisation.is_none() {
                frame.components[component].quantisation = Some(header.quantisation(index)?);
            }
            let table = |tables: &'h [Option<Table>; 4], index: u8| tables.get(usize::from(index))?.as_ref();
            let (dc, ac) = (table(&header.dc, tables >> 4), table(&header.ac, tables & 15));
            parts.push(Part { component, dc, ac, before: 0 });
        }
        let progressive = frame.progressive;
        let (first, last) =
            if progressive { (usize::from(first), usize::from(last)) } else { (0, BLOCK - 1) };
        let (high, low) = if progressive { (bits >> 4, u32::from(bits & 15)) } else { (0, 0) };
        let mixed = progressive && (first == 0 && last != 0 || first > 0 && parts.len() != 1);
        if parts.is_empty() || last >= BLOCK || first > last || mixed || low > 13 {
            return bad("a scan of coefficients that it cannot have");
        }
        let refines = high != 0;
        Ok(Self { parts, first, last, refines, low, restart: header.restart, empty: 0, progressive })
    }

    /// Reads the scan; how many bytes it took.
    pub fn decode(mut self, cx: &Context<'_>, frame: &mut Frame, bytes: &[u8]) -> Result<usize, Stop> {
        let mut bits = Bits::new(bytes);
        let alone = self.parts.len() == 1;
        let (across, down) = match &self.parts[..] {
            [part] => {
                let component = &frame.components[part.component];
                (component.width.div_ceil(8), component.height.div_ceil(8))
            }
            _ => (frame.mcus_across, frame.mcus_down),
        };
        for mcu in 0..across * down {
            if self.restart > 0 && mcu > 0 && mcu % self.restart == 0 {
                bits.restart();
                self.empty = 0;
                self.parts.iter_mut().for_each(|part| part.before = 0);
            }
            let (row, column) = (mcu / across, mcu % across);
            for index in 0..self.parts.len() {
                let component = &mut frame.components[self.parts[index].component];
                let (h, v) = if alone { (1, 1) } else { (component.across, component.down) };
                for place in 0..h * v {
                    cx.work(BLOCK)?;
                    let (y, x) = (row * v + place / h, column * h + place % h);
                    let start = (y * component.blocks_across + x) * BLOCK;
                    let Some(block) = component.coefficients.get_mut(start..start + BLOCK) else {
                        return bad("a block outside its component");
                    };
                    self.block(&mut bits, index, block)?;
                }
            }
        }
        Ok(bits.position())
    }

    fn block(&mut self, bits: &mut Bits<'_>, index: usize, block: &mut [i16]) -> Result<(), Stop> {
        if self.first == 0 {
            self.dc(bits, index, block)?;
        }
        if self.last == 0 {
            return Ok(());
        }
        match self.refines {
            false => self.ac(bits, index, block),
            true => self.refine_ac(bits, index, block),
        }
    }

    fn dc(&mut self, bits: &mut Bits<'_>, index: usize, block: &mut [i16]) -> Result<(), Stop> {
        if self.refines {
            block[0] |= (bits.bit() << self.low) as i16;
            return Ok(());
        }
        let part = &mut self.parts[index];
        let Some(table) = part.dc else { return bad("a Huffman table is missing") };
        let size = bits.symbol(table)?;
        if size > 15 {
            return bad("a difference of too many bits");
        }
        part.before = part.before.wrapping_add(bits.number(u32::from(size)));
        block[0] = (part.before << self.low) as i16;
        Ok(())
    }

    /// The first bits of AC coefficients.
    fn ac(&mut self, bits: &mut Bits<'_>, index: usize, block: &mut [i16]) -> Result<(), Stop> {
        if self.empty > 0 {
            self.empty -= 1;
            return Ok(());
        }
        let Some(table) = self.parts[index].ac else { return bad("a Huffman table is missing") };
        let mut k = self.first.max(1);
        while k <= self.last {
            let symbol = bits.symbol(table)?;
            let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 {
                if run == 15 {
                    k += 16;
                    continue;
                }
                if self.progressive {
                    self.empty = (1 << run) - 1 + bits.bits(run);
                }
                break;
            }
            k += run as usize;
            let value = bits.number(size);
            if k <= self.last {
                block[ZIGZAG[k]] = (value << self.low) as i16;
            }
            k += 1;
        }
        Ok(())
    }

    /// One more bit of AC coefficients (T.81, G.1.2.3).
    fn refine_ac(&mut self, bits: &mut Bits<'_>, index: usize, block: &mut [i16]) -> Result<(), Stop> {
        let Some(table) = self.parts[index].ac else { return bad("a Huffman table is missing") };
        let one = 1i16 << self.low;
        let mut k = self.first;
        if self.empty == 0 {
            while k <= self.last {
                let symbol = bits.symbol(table)?;
                let (mut run, size) = (u32::from(symbol >> 4), symbol & 15);
                let mut new = 0;
                if size != 0 {
                    new = if bits.bit() == 1 { one } else { -one };
                } else if run < 15 {
                    self.empty = (1 << run) + bits.bits(run);
                    break;
                }
                // Over `run` coefficients that are still zero, to the one that is not any more.
                while k <= self.last {
                    let cell = &mut block[ZIGZAG[k]];
                    if *cell != 0 {
                        refine(bits, cell, one);
                    } else if run == 0 {
                        *cell = new;
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                k += 1;
            }
        }
        if self.empty > 0 {
            for &place in ZIGZAG.get(k..=self.last).unwrap_or_default() {
                if block[place] != 0 {
                    refine(bits, &mut block[place], one);
                }
            }
            self.empty -= 1;
        }
        Ok(())
    }
}

/// One more bit of a coefficient that is not zero.
fn refine(bits: &mut Bits<'_>, cell: &mut i16, one: i16) {
    if bits.bit() == 1 && *cell & one == 0 {
        *cell = cell.wrapping_add(if *cell > 0 { one } else { -one });
    }
}
