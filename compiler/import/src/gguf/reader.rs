//! The bytes of a GGUF file's head: every length is compared with what is left before anything is allocated.

use std::borrow::Cow;

use super::value::{GgufArray, GgufValue};
use crate::error::{Fault, quote};

/// Most elements of all arrays together: tokenizers have a few hundred thousand.
const MAX_ELEMENTS: usize = 1 << 24;

/// A cursor over the file.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    elements: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, elements: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..count) else {
            let (at, left) = (self.at, rest.len());
            return Err(Fault::bad(format!(
                "the file ends early: {count} bytes wanted at {at}, {left} left"
            )));
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things that take at least `least` bytes each.
    pub(super) fn count(&mut self, least: usize, what: &str) -> Result<usize, Fault> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.left() / least => Ok(count),
            _ => {
                Err(Fault::bad(format!("{count} {what} do not fit the {} bytes that are left", self.left())))
            }
        }
    }

    /// A length and as many bytes.
    fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.count(1, "bytes of a text")?;
        self.take(length)
    }

    /// A name: UTF-8 of at most `most` bytes.
    pub(super) fn name(&mut self, most: usize, what: &str) -> Result<String, Fault> {
        let bytes = self.bytes()?;
        let name = std::str::from_utf8(bytes).map_err(|_| {
            Fault::bad(format!("{what} {} is not UTF-8", quote(&String::from_utf8_lossy(bytes))))
        })?;
        if name.is_empty() || name.len() > most {
            let length = name.len();
            return Err(Fault::bad(format!(
                "{what} {} has {length} bytes, 1 to {most} are right",
                quote(name)
            )));
        }
        Ok(name.to_string())
    }

    /// Text of metadata. Tokens of byte-level tokenizers are not always UTF-8; what is not is replaced.
    fn text(&mut self) -> Result<Cow<'a, str>, Fault> {
        Ok(String::from_utf8_lossy(self.bytes()?))
    }

    fn boolean(&mut self) -> Result<bool, Fault> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(Fault::bad(format!("a truth value is 0 or 1, not {other}"))),
        }
    }

    /// A value of a type code.
    pub(super) fn value(&mut self, code: u32) -> Result<GgufValue, Fault> {
        use GgufValue::*;
        Ok(match code {
            0 => Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Unsigned(self.u32()?.into()),
            5 => Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Float(f32::from_le_bytes(self.array()?).into()),
            7 => Bool(self.boolean()?),
            8 => Text(self.text()?.into_owned()),
            9 => Array(self.elements()?),
            10 => Unsigned(self.u64()?),
            11 => Signed(i64::from_le_bytes(self.array()?)),
            12 => Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(Fault::bad(format!("{code} is no type of a value"))),
        })
    }

    fn elements(&mut self) -> Result<GgufArray, Fault> {
        let code = self.u32()?;
        let least = match code {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(Fault::unsupported("arrays of arrays have no meaning in metadata")),
            _ => return Err(Fault::bad(format!("{code} is no type of a value"))),
        };
        let count = self.count(least, "elements of an array")?;
        self.elements += count;
        if self.elements > MAX_ELEMENTS {
            return Err(Fault::resource(format!("metadata has more than {MAX_ELEMENTS} elements in arrays")));
        }
        macro_rules! each {
            ($kind:ident) => {{
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    match self.value(code)? {
                        GgufValue::$kind(item) => items.push(item),
                        _ => return Err(Fault::bad("an element of another type")),
                    }
                }
                GgufArray::$kind(items)
            }};
        }
        Ok(match code {
            0 | 2 | 4 | 10 => each!(Unsigned),
            1 | 3 | 5 | 11 => each!(Signed),
            6 | 12 => each!(Float),
            7 => each!(Bool),
            _ => GgufArray::Text((0..count).map(|_| self.text()).collect::<Result<_, _>>()?),
        })
    }
}
