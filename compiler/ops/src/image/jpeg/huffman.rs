//! Huffman codes and the bits that they are read from.

use super::{Stop, bad};

/// A code table.
pub(super) struct Table {
    /// For codes of each length: the first code, the number of codes, and where their symbols begin.
    lengths: [(u32, u32, usize); 16],
    symbols: Vec<u8>,
}

impl Table {
    /// From the number of codes of each length and their symbols in order.
    pub fn new(counts: &[u8], symbols: &[u8]) -> Result<Self, Stop> {
        let (mut code, mut start) = (0u32, 0);
        let mut lengths = [(0, 0, 0); 16];
        for (length, &count) in counts.iter().enumerate().take(16) {
            lengths[length] = (code, u32::from(count), start);
            code += u32::from(count);
            start += usize::from(count);
            if code > 1 << (length + 1) {
                return bad("a Huffman table has too many codes");
            }
            code <<= 1;
        }
        Ok(Self { lengths, symbols: symbols.to_vec() })
    }
}

/// The bits of a scan. After its end, and where a marker stands, come zeros.
pub(super) struct Bits<'b> {
    bytes: &'b [u8],
    position: usize,
    held: u32,
    count: u32,
}

impl<'b> Bits<'b> {
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, position: 0, held: 0, count: 0 }
    }

    /// Bytes that were read; a marker is left.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Drops the rest of a byte and passes the restart marker, where it is next.
    pub fn restart(&mut self) {
        (self.held, self.count) = (0, 0);
        if let Some(&[0xff, 0xd0..=0xd7]) = self.bytes.get(self.position..self.position + 2) {
            self.position += 2;
        }
    }

    pub fn bit(&mut self) -> u32 {
        if self.count == 0 {
            let byte = match self.bytes.get(self.position) {
                None => 0,
                Some(0xff) => match self.bytes.get(self.position + 1) {
                    Some(0) => {
                        self.position += 2;
                        0xff
                    }
                    _ => 0,
                },
                Some(&byte) => {
                    self.position += 1;
                    byte
                }
            };
            (self.held, self.count) = (u32::from(byte), 8);
        }
        self.count -= 1;
        self.held >> self.count & 1
    }

    /// The next `count` bits.
    pub fn bits(&mut self, count: u32) -> u32 {
        (0..count).fold(0, |value, _| value << 1 | self.bit())
    }

    /// A number of `count` bits whose upper half is positive (T.81, EXTEND).
    pub fn number(&mut self, count: u32) -> i32 {
        if count == 0 {
            return 0;
        }
        let value = self.bits(count) as i32;
        if value < 1 << (count - 1) { value - (1 << count) + 1 } else { value }
    }

    /// The symbol of the next code.
    pub fn symbol(&mut self, table: &Table) -> Result<u8, Stop> {
        let mut code = 0;
        for &(first, count, start) in &table.lengths {
            code = code << 1 | self.bit();
            if let Some(place) = code.checked_sub(first)
                && place < count
            {
                return match table.symbols.get(start + place as usize) {
                    Some(&symbol) => Ok(symbol),
                    None => bad("a Huffman table without symbols"),
                };
            }
        }
        bad("a code that its table does not have")
    }
}
