//! Tiles of keys and values out of pages: f32 is read where it lies, narrower elements are widened, their scales applied.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::StateElement;

use super::block::{KEYS, KeyTile, Keys};
use super::pages::Pages;
use crate::matmul::copy;
use crate::matmul::tile::PANEL;
use crate::simd::{LANES, Simd, prefetch};

/// Vectors of the keys' line of one element.
const VECTORS: usize = KEYS / LANES;

/// Elements of a state.
trait Cells: Copy {
    /// One of them in memory.
    type Cell: Copy + Default;

    /// Reads 16 of them.
    ///
    /// # Safety
    /// `from` is readable for 16 elements.
    unsafe fn load<S: Simd>(simd: S, from: *const Self::Cell) -> S::F;
}

/// f32.
#[derive(Clone, Copy)]
struct Whole;
/// f16.
#[derive(Clone, Copy)]
struct Half;
/// bf16.
#[derive(Clone, Copy)]
struct Brain;
/// i8.
#[derive(Clone, Copy)]
struct Byte;

impl Cells for Whole {
    type Cell = f32;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const f32) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { simd.load(from) }
    }
}

impl Cells for Half {
    type Cell = u16;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u16) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { simd.load_f16(from) }
    }
}

impl Cells for Brain {
    type Cell = u16;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u16) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bf16(from) }
    }
}

impl Cells for Byte {
    type Cell = i8;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const i8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { simd.load_i8(from) }
    }
}

/// Reads the first `count <= 16` elements; the other lanes are 0.
///
/// # Safety
/// `from` is readable for `count` elements.
#[inline(always)]
unsafe fn load_some<S: Simd, C: Cells>(simd: S, from: *const C::Cell, count: usize) -> S::F {
    // SAFETY: the caller's promise; a part of a vector is read from a copy.
    unsafe {
        if count == LANES {
            return C::load(simd, from);
        }
        let mut part = [C::Cell::default(); LANES];
        from.copy_to_nonoverlapping(part.as_mut_ptr(), count);
        C::load(simd, part.as_ptr())
    }
}

/// Keys and values of one head of one sequence.
pub(super) struct Paged {
    pub(super) pages: Pages,
    pub(super) state: *const u8,
    pub(super) sequence: usize,
    pub(super) head: usize,
    /// Elements of a value.
    pub(super) v_dim: usize,
    /// Values are the first elements of the keys.
    pub(super) latent: bool,
}

/// Where a tile lies in the state, in elements.
#[derive(Clone, Copy)]
struct Place {
    /// Its page.
    start: usize,
    /// From its page to that of the tile behind it.
    next: isize,
    /// Its keys.
    count: usize,
}

impl Keys for Paged {
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &self,
        simd: S,
        index: usize,
        end: usize,
        space: *mut f32,
    ) -> Result<KeyTile, Status> {
        // SAFETY: rows end within the table; the page lies in the state; the space holds the tile.
        unsafe {
            let start = self.pages.page(self.sequence, index)?;
            let at = Place { start, next: self.after(index, start), count: end - index * KEYS };
            let tile = match self.pages.element {
                StateElement::F32 => self.whole(simd, at, space),
                StateElement::F16 => self.widened::<S, Half>(simd, at, space),
                StateElement::BF16 => self.widened::<S, Brain>(simd, at, space),
                StateElement::I8 => self.scaled(simd, at, space),
            };
            Ok(if self.latent { self.turned(simd, tile, space) } else { tile })
        }
    }
}

impl Paged {
    /// Elements from the page of tile `index`, which begins at `start`, to the next one; 0 behind the last. The last that is
    /// read is told the next too, which another head or another worker may read.
    #[inline(always)]
    fn after(&self, index: usize, start: usize) -> isize {
        if index + 1 >= self.pages.pages {
            return 0;
        }
        // SAFETY: the table has that entry.
        match unsafe { self.pages.page(self.sequence, index + 1) } {
            Ok(next) => (next as isize).wrapping_sub(start as isize),
            Err(_) => 0,
        }
    }

    /// Where keys and values of a tile lie in the space of a block: whole lines of keys, rows of values.
    fn room(&self, space: *mut f32) -> (*mut f32, *mut f32, KeyTile) {
        let page = self.pages.page;
        let (k, v) = (space, space.wrapping_add(KEYS * page.qk_head_dim));
        let width = self.v_dim.next_multiple_of(PANEL);
        (k, v, KeyTile { k, k_steps: (KEYS, PANEL), v, v_steps: (width, PANEL), next: None })
    }

    /// A tile whose values are the first elements of its keys.
    ///
    /// # Safety
    /// `space` is that of the tile.
    #[inline(always)]
    unsafe fn turned<S: Simd>(&self, simd: S, tile: KeyTile, space: *mut f32) -> KeyTile {
        let (_, v, room) = self.room(space);
        let width = room.v_steps.0;
        // SAFETY: `[qk_dim][64]` keys, and room for 64 rows of whole panels.
        unsafe {
            copy::transpose(simd, self.v_dim, KEYS, tile.k, KEYS as isize, v, width);
            for place in 0..KEYS {
                for at in self.v_dim..width {
                    v.add(place * width + at).write(0.0);
                }
            }
        }
        KeyTile { v, v_steps: room.v_steps, next: None, ..tile }
    }

    /// The page's own f32 elements; values whose width is no whole panel are copied.
    ///
    /// # Safety
    /// The page begins at element `start` of the state; `space` holds the tile.
    #[inline(always)]
    unsafe fn whole<S: Simd>(&self, simd: S, at: Place, space: *mut f32) -> KeyTile {
        let (page, Place { start, next, count }) = (self.pages.page, at);
        // SAFETY: the caller's promise.
        unsafe {
            let start = self.state.cast::<f32>().add(start);
            let k = start.add(page.key(self.head, 0, 0));
            let v = start.add(page.value(self.head, 0, 0));
            let v_steps = (page.v_head_dim, PANEL);
            let tile = KeyTile { k, k_steps: (KEYS, PANEL), v, v_steps, next: Some(next) };
            // What the keys' own values are made of follows.
            if self.latent || page.v_head_dim.is_multiple_of(PANEL) {
                return tile;
            }
            let (_, to, room) = self.room(space);
            self.values::<S, Whole>(simd, (v, next), to, count);
            KeyTile { v: to, v_steps: room.v_steps, next: None, ..tile }
        }
    }

    /// A tile of 16-bit elements as f32.
    ///
    /// # Safety
    /// As [`whole`](Self::whole).
    #[inline(always)]
    unsafe fn widened<S: Simd, C: Cells>(&self, simd: S, at: Place, space: *mut f32) -> KeyTile {
        let (page, Place { start, next, count }) = (self.pages.page, at);
        let (k, v, tile) = self.room(space);
        // SAFETY: the caller's promise; a head's keys are whole lines of 64.
        unsafe {
            let state = self.state.cast::<C::Cell>().add(start);
            let keys = state.add(page.key(self.head, 0, 0));
            for at in (0..KEYS * page.qk_head_dim).step_by(LANES) {
                prefetch(keys.wrapping_add(at).wrapping_offset(next));
                simd.store(k.add(at), C::load(simd, keys.add(at)));
            }
            if !self.latent {
                self.values::<S, C>(simd, (state.add(page.value(self.head, 0, 0)), next), v, count);
            }
        }
        tile
    }

    /// The values of `count` places as rows of whole panels.
    ///
    /// # Safety
    /// `from` holds the values, `to` the rows.
    #[inline(always)]
    unsafe fn values<S: Simd, C: Cells>(
        &self,
        simd: S,
        (from, next): (*const C::Cell, isize),
        to: *mut f32,
        count: usize,
    ) {
        let v_dim = self.pages.page.v_head_dim;
        let width = v_dim.next_multiple_of(PANEL);
        // SAFETY: the caller's promise.
        unsafe {
            if width == v_dim {
                for at in (0..count * v_dim).step_by(LANES) {
                    prefetch(from.wrapping_add(at).wrapping_offset(next));
                    simd.store(to.add(at), C::load(simd, from.add(at)));
                }
                return;
            }
            for place in 0..count {
                let (from, to) = (from.add(place * v_dim), to.add(place * width));
                for at in (0..width).step_by(LANES) {
                    let there = v_dim.saturating_sub(at).min(LANES);
                    let row = if there == 0 {
                        simd.splat(0.0)
                    } else {
                        load_some::<S, C>(simd, from.add(at), there)
                    };
                    simd.store(to.add(at), row);
                }
            }
        }
    }

    /// A tile of bytes as f32 times their scales.
    ///
    /// # Safety
    /// As [`whole`](Self::whole).
    #[inline(always)]
    unsafe fn scaled<S: Simd>(&self, simd: S, at: Place, space: *mut f32) -> KeyTile {
        let (page, Place { start, next, count }) = (self.pages.page, at);
        let (k, v, tile) = self.room(space);
        // SAFETY: the caller's promise; a head's keys and their scales are whole lines of 64.
        unsafe {
            let state = self.state.add(start);
            let scales = state.add(page.key_scale(self.head, 0)).cast::<f32>();
            let mut line = [simd.splat(0.0); VECTORS];
            for (vector, scale) in line.iter_mut().enumerate() {
                *scale = simd.load(scales.add(vector * LANES));
            }
            let keys = state.cast::<i8>().add(page.key(self.head, 0, 0));
            for d in 0..page.qk_head_dim {
                prefetch(keys.wrapping_add(d * KEYS).wrapping_offset(next));
                for (vector, scale) in line.iter().enumerate() {
                    let at = d * KEYS + vector * LANES;
                    simd.store(k.add(at), simd.mul(simd.load_i8(keys.add(at)), *scale));
                }
            }
            if self.latent {
                return tile;
            }
            let scales = state.add(page.value_scale(self.head, 0)).cast::<f32>();
            let values = state.cast::<i8>().add(page.value(self.head, 0, 0));
            let width = tile.v_steps.0;
            for place in 0..count {
                let scale = simd.splat(scales.add(place).read_unaligned());
                let (from, to) = (values.add(place * page.v_head_dim), v.add(place * width));
                prefetch(from.wrapping_offset(next));
                for at in (0..width).step_by(LANES) {
                    let there = page.v_head_dim.saturating_sub(at).min(LANES);
                    let row = match there {
                        0 => simd.splat(0.0),
                        _ => simd.mul(load_some::<S, Byte>(simd, from.wrapping_add(at), there), scale),
                    };
                    simd.store(to.add(at), row);
                }
            }
        }
        tile
    }
}
