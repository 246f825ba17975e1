//! What a packed group of quantised blocks looks like.

use lathe_tensor::{BlockFormat, BlockParts, ScaleForm};
use serde::{Deserialize, Serialize};

use super::PackedBlocks;

const PANEL: usize = PackedBlocks::PANEL;

/// How runs and elements of a group are stored. Builtins take its [`code`](Self::code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockKind {
    /// Bits of an element: 2 to 6, or 8.
    pub bits: u8,
    /// Runs have 16 elements instead of 32.
    pub short_runs: bool,
    /// What scales and minima are made of.
    pub scales: ScaleForm,
    /// Runs have minima.
    pub minima: bool,
    /// What is subtracted from every element.
    pub zero: u8,
}

/// Sizes and places.
impl BlockKind {
    /// Groups of a panel that share factors of their scales.
    pub const HEAD_GROUPS: usize = 8;

    /// The kind that holds a format.
    #[inline]
    pub const fn of(format: BlockFormat) -> Self {
        Self {
            bits: format.bits() as u8,
            short_runs: format.run() == 16,
            scales: format.scale_form(),
            minima: format.has_minima(),
            zero: format.zero(),
        }
    }

    /// The same numbers with a byte an element and scales of f32, which takes the least work to read.
    #[inline]
    pub const fn wide(self) -> Self {
        Self { bits: 8, scales: ScaleForm::F32, ..self }
    }

    /// The number that builtins take: bits, flags, the form of scales, then `zero`.
    #[inline]
    pub const fn code(self) -> i64 {
        self.bits as i64
            | (self.short_runs as i64) << 4
            | (self.minima as i64) << 5
            | (self.scales as i64) << 6
            | (self.zero as i64) << 8
    }

    /// The kind of a code.
    #[inline]
    pub const fn from_code(code: i64) -> Option<Self> {
        let scales = match code >> 6 & 3 {
            0 => ScaleForm::F32,
            1 => ScaleForm::F16,
            2 => ScaleForm::Integers,
            _ => return None,
        };
        let bits = (code & 15) as u8;
        if code < 0 || code >> 8 > 255 || !matches!(bits, 2..=6 | 8) {
            return None;
        }
        let (short_runs, minima) = (code & 16 != 0, code & 32 != 0);
        Some(Self { bits, short_runs, scales, minima, zero: (code >> 8) as u8 })
    }

    /// Runs of a group and column.
    #[inline]
    pub const fn runs(self) -> usize {
        if self.short_runs { 2 } else { 1 }
    }

    /// Bytes of a scale or minimum in a group.
    #[inline]
    pub const fn scale_bytes(self) -> usize {
        match self.scales {
            ScaleForm::F32 => 4,
            ScaleForm::F16 => 2,
            ScaleForm::Integers => 1,
        }
    }

    /// Bytes of a group's scales; its minima take as many.
    #[inline]
    pub const fn scales_bytes(self) -> usize {
        self.runs() * PANEL * self.scale_bytes()
    }

    /// Where a group's elements begin.
    #[inline]
    pub const fn elements_at(self) -> usize {
        if self.minima { 2 * self.scales_bytes() } else { self.scales_bytes() }
    }

    /// Bytes of a group of a panel.
    #[inline]
    pub const fn group_bytes(self) -> usize {
        self.elements_at() + PANEL * PackedBlocks::GROUP / 8 * self.bits as usize
    }

    /// Bytes of the factors before each eight groups; those of minima are in the second half.
    #[inline]
    pub const fn head_bytes(self) -> usize {
        match (self.scales, self.minima) {
            (ScaleForm::Integers, true) => 4 * PANEL,
            (ScaleForm::Integers, false) => 2 * PANEL,
            _ => 0,
        }
    }

    /// Rows are a multiple of this.
    #[inline]
    pub const fn unit(self) -> usize {
        match self.scales {
            ScaleForm::Integers => Self::HEAD_GROUPS * PackedBlocks::GROUP,
            _ => PackedBlocks::GROUP,
        }
    }

    /// Where the factors of a group of a panel begin.
    #[inline]
    pub const fn head_at(self, group: usize) -> usize {
        group / Self::HEAD_GROUPS * (self.head_bytes() + Self::HEAD_GROUPS * self.group_bytes())
    }

    /// Where a group of a panel begins.
    #[inline]
    pub const fn group_at(self, group: usize) -> usize {
        self.head_at(group) + self.head_bytes() + group % Self::HEAD_GROUPS * self.group_bytes()
    }

    /// Bytes of a panel of so many groups, whole [`unit`](Self::unit)s.
    #[inline]
    pub const fn panel_bytes(self, groups: usize) -> usize {
        self.head_at(groups) + groups % Self::HEAD_GROUPS * self.group_bytes()
    }
}

/// Elements.
impl BlockKind {
    /// Where bits of quarter `quarter` of the rows begin in bytes that hold `width` bits of several quarters.
    ///
    /// They are stored rotated, so that one shift brings them to their place in the element, above the bits stored elsewhere.
    #[inline]
    pub const fn bits_at(self, width: usize, quarter: usize) -> usize {
        (self.place(width) + width * quarter) % 8
    }

    /// The place in an element of the bits that are stored `width` together.
    #[inline]
    pub const fn place(self, width: usize) -> usize {
        match width {
            2 => (self.bits & 4) as usize,
            _ => (self.bits & 6) as usize,
        }
    }

    /// Where the pairs of bits begin behind the elements' beginning.
    #[inline]
    pub const fn pairs_at(self) -> usize {
        if self.bits & 4 != 0 { 4 * PANEL * 4 } else { 0 }
    }

    /// Where the single bits begin behind the elements' beginning.
    #[inline]
    pub const fn singles_at(self) -> usize {
        self.pairs_at() + if self.bits & 2 != 0 { 2 * PANEL * 4 } else { 0 }
    }

    /// Writes 32 elements of a column into a group, and its factors into the group's head.
    pub(super) fn write(
        self,
        parts: &BlockParts,
        part: usize,
        column: usize,
        head: &mut [u8],
        group: &mut [u8],
    ) {
        let runs = self.runs();
        for (which, (values, at)) in
            [(&parts.scales, 0), (&parts.minima, self.scales_bytes())].into_iter().enumerate()
        {
            if which == 1 && !self.minima {
                break;
            }
            for run in 0..runs {
                let (value, place) = (values[part * runs + run], run * PANEL + column);
                match self.scales {
                    ScaleForm::F32 => group[at + place * 4..][..4].copy_from_slice(&value.to_le_bytes()),
                    ScaleForm::F16 => {
                        let value = half::f16::from_f32(value).to_le_bytes();
                        group[at + place * 2..][..2].copy_from_slice(&value);
                    }
                    ScaleForm::Integers => group[at + place] = parts.integers[which][part * runs + run] as u8,
                }
            }
            if self.scales == ScaleForm::Integers {
                let factor = parts.factors[which].to_le_bytes();
                head[(which * PANEL + column) * 2..][..2].copy_from_slice(&factor);
            }
        }
        let mut quarters = [0u32; 8];
        let elements = &parts.elements[part * PackedBlocks::GROUP..][..PackedBlocks::GROUP];
        for (quarter, rows) in quarters.iter_mut().zip(elements.chunks_exact(4)) {
            *quarter = u32::from_le_bytes([rows[0], rows[1], rows[2], rows[3]]);
        }
        self.write_elements(quarters, column, &mut group[self.elements_at()..]);
    }

    /// Writes the quarters of a column, four rows each.
    fn write_elements(self, quarters: [u32; 8], column: usize, bytes: &mut [u8]) {
        let mut put = |at: usize, index: usize, word: u32| {
            bytes[at + (index * PANEL + column) * 4..][..4].copy_from_slice(&word.to_le_bytes());
        };
        if self.bits == 8 {
            quarters.into_iter().enumerate().for_each(|(index, word)| put(0, index, word));
            return;
        }
        // The `width` bits at their place in each byte of a quarter, moved to where they are stored.
        let moved = |width: usize, quarter: usize, stored: usize| {
            let mask = 0x0101_0101 * ((1 << width) - 1);
            (quarters[quarter] >> self.place(width) & mask) << self.bits_at(width, stored)
        };
        if self.bits & 4 != 0 {
            for index in 0..4 {
                put(0, index, quarters[index] & 0x0F0F_0F0F | (quarters[index + 4] & 0x0F0F_0F0F) << 4);
            }
        }
        if self.bits & 2 != 0 {
            for half in 0..2 {
                let word = (0..4).fold(0, |word, step| word | moved(2, half * 4 + step, step));
                put(self.pairs_at(), half, word);
            }
        }
        if self.bits & 1 != 0 {
            let word = (0..8).fold(0, |word, quarter| word | moved(1, quarter, quarter));
            put(self.singles_at(), 0, word);
        }
    }

    /// Row `row` (below 32) of column `column` (below 32) of a group's elements.
    fn element(self, bytes: &[u8], row: usize, column: usize) -> u8 {
        let (quarter, step) = (row / 4, row / 4 % 4);
        let byte = |at: usize, index: usize| bytes[at + (index * PANEL + column) * 4 + row % 4];
        if self.bits == 8 {
            return byte(0, quarter);
        }
        let mut element = 0;
        if self.bits & 4 != 0 {
            element |= byte(0, step) >> (quarter / 4 * 4) & 15;
        }
        if self.bits & 2 != 0 {
            element |= (byte(self.pairs_at(), quarter / 4) >> self.bits_at(2, step) & 3) << self.place(2);
        }
        if self.bits & 1 != 0 {
            element |= (byte(self.singles_at(), 0) >> self.bits_at(1, quarter) & 1) << self.place(1);
        }
        element
    }

    /// The value of row `row` (below 32) of column `column` (below 32) of a group, as the kernels compute it.
    ///
    /// # Panics
    /// Where `head` or `group` is shorter than a group's.
    pub fn value(self, head: &[u8], group: &[u8], row: usize, column: usize) -> f32 {
        let short =
            |bytes: &[u8], at: usize| half::f16::from_le_bytes([bytes[at * 2], bytes[at * 2 + 1]]).to_f32();
        let get = |which: usize| {
            let at = row * self.runs() / PackedBlocks::GROUP * PANEL + column;
            let group = &group[which * self.scales_bytes()..];
            match self.scales {
                ScaleForm::F32 => {
                    let at = at * 4;
                    f32::from_le_bytes([group[at], group[at + 1], group[at + 2], group[at + 3]])
                }
                ScaleForm::F16 => short(group, at),
                ScaleForm::Integers => short(head, which * PANEL + column) * f32::from(group[at] as i8),
            }
        };
        let element = self.element(&group[self.elements_at()..], row, column);
        let product = get(0) * (i32::from(element) - i32::from(self.zero)) as f32;
        if self.minima { product + get(1) } else { product }
    }
}
