//! The one primitive of data movement: every element of the result is an element of a source, or a fill.

use lathe_tensor::{DType, Tensor};

use crate::EvalError;
use crate::evaluate::Context;

/// Where an element comes from: `(source, element)`, or the fill.
pub(crate) type Cell = Option<(usize, usize)>;

impl Context<'_> {
    /// A tensor whose element `i` is named by the `i`-th of `cells`; `fill` holds one element, and is zero (or the
    /// empty string) where absent. All have the dtype of the first source; `cells` names only elements that exist.
    pub fn pick(
        &self,
        sources: &[&Tensor],
        fill: Option<&Tensor>,
        shape: &[usize],
        cells: impl Iterator<Item = Cell>,
    ) -> Result<Tensor, EvalError> {
        let Some(first) = sources.first() else {
            return Err(self.bad("there is nothing to take elements from"));
        };
        for other in sources.iter().chain(&fill) {
            self.same_dtype("an operand", first, other)?;
        }
        match first.dtype().bits() {
            8 => self.pick_bytes::<1>(sources, fill, shape, cells),
            16 => self.pick_bytes::<2>(sources, fill, shape, cells),
            32 => self.pick_bytes::<4>(sources, fill, shape, cells),
            64 => self.pick_bytes::<8>(sources, fill, shape, cells),
            0 => self.pick_strings(sources, fill, shape, cells),
            _ => self.pick_codes(sources, fill, shape, cells),
        }
    }

    /// The same with one source and no fill.
    pub fn rearrange(
        &self,
        x: &Tensor,
        shape: &[usize],
        elements: impl Iterator<Item = usize>,
    ) -> Result<Tensor, EvalError> {
        self.pick(&[x], None, shape, elements.map(|element| Some((0, element))))
    }

    fn pick_bytes<const SIZE: usize>(
        &self,
        sources: &[&Tensor],
        fill: Option<&Tensor>,
        shape: &[usize],
        mut cells: impl Iterator<Item = Cell>,
    ) -> Result<Tensor, EvalError> {
        let mut out = self.zeros(sources[0].dtype(), shape)?;
        let sources: Vec<&[[u8; SIZE]]> = sources.iter().map(|source| source.bytes().as_chunks().0).collect();
        let fill = fill.and_then(|fill| fill.bytes().first_chunk()).copied().unwrap_or([0; SIZE]);
        for slot in out.bytes_mut().as_chunks_mut::<SIZE>().0 {
            self.step()?;
            *slot = match cells.next().flatten() {
                Some((source, element)) => sources[source][element],
                None => fill,
            };
        }
        Ok(out)
    }

    fn pick_strings(
        &self,
        sources: &[&Tensor],
        fill: Option<&Tensor>,
        shape: &[usize],
        mut cells: impl Iterator<Item = Cell>,
    ) -> Result<Tensor, EvalError> {
        let strings = |tensor: &'_ Tensor| tensor.strings().map(<[_]>::to_vec).map_err(|e| self.tensor(e));
        let fill =
            fill.map(strings).transpose()?.and_then(|fill| fill.into_iter().next()).unwrap_or_default();
        let count = self.count(shape)?;
        self.spend(count.saturating_mul(2 * size_of::<Vec<u8>>()))?;
        let mut out: Vec<Vec<u8>> = Vec::with_capacity(count);
        for _ in 0..count {
            self.step()?;
            let text = match cells.next().flatten() {
                Some((source, element)) => &sources[source].strings().map_err(|e| self.tensor(e))?[element],
                None => &fill,
            };
            self.spend(text.len())?;
            out.push(text.clone());
        }
        Tensor::from_strings(out, shape).map_err(|source| self.tensor(source))
    }

    fn pick_codes(
        &self,
        sources: &[&Tensor],
        fill: Option<&Tensor>,
        shape: &[usize],
        mut cells: impl Iterator<Item = Cell>,
    ) -> Result<Tensor, EvalError> {
        let dtype = sources[0].dtype();
        let fill = fill.filter(|fill| !fill.is_empty()).map_or(0, |fill| code(dtype, fill.bytes(), 0));
        let mut out = self.zeros(dtype, shape)?;
        let count = out.len();
        let bytes = out.bytes_mut();
        for i in 0..count {
            self.step()?;
            let code = match cells.next().flatten() {
                Some((source, element)) => code(dtype, sources[source].bytes(), element),
                None => fill,
            };
            set_code(dtype, bytes, i, code);
        }
        Ok(out)
    }

    /// The same elements under another shape.
    pub fn viewed(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor, EvalError> {
        x.reshape(shape).map_err(|source| self.tensor(source))
    }
}

/// Element `i` of packed codes of a dtype below 8 bits.
pub(crate) fn code(dtype: DType, bytes: &[u8], i: usize) -> u8 {
    let bits = dtype.bits().clamp(1, 8);
    let per_byte = 8 / bits;
    bytes[i / per_byte] >> (i % per_byte * bits) & (0xFF >> (8 - bits))
}

/// Sets element `i`, which is zero so far.
pub(crate) fn set_code(dtype: DType, bytes: &mut [u8], i: usize, code: u8) {
    let bits = dtype.bits().clamp(1, 8);
    let per_byte = 8 / bits;
    bytes[i / per_byte] |= (code & (0xFF >> (8 - bits))) << (i % per_byte * bits);
}
