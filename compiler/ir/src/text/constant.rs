//! Elements of constants as text.

use half::{bf16, f16};
use lathe_tensor::{Buffer, DType, Encoding, Shape, Tensor};

use crate::Constant;

/// Elements that are printed one by one.
const MAX_LISTED: usize = 64;
/// Bytes of a constant of equal elements that is printed as `splat`.
const MAX_SPLAT: usize = 1 << 20;

/// Bytes of a mapped constant that stay in memory when it was hashed.
const MAX_KEPT: usize = 1 << 16;

/// The hash that stands for a large constant: the first 8 bytes of the BLAKE3 of its bytes, read big-endian.
pub fn constant_hash(tensor: &Tensor) -> u64 {
    match tensor.dtype() {
        DType::String => hash(tensor),
        _ => tensor.buffer().hash_once(|_| hash(tensor)),
    }
}

fn hash(tensor: &Tensor) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(tensor.bytes());
    for string in tensor.strings().unwrap_or(&[]) {
        hasher.update(&(string.len() as u64).to_le_bytes());
        hasher.update(string);
    }
    if tensor.bytes().len() > MAX_KEPT {
        // All weights of a mapped file pass here, and need not be in memory at once.
        tensor.buffer().release();
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// The literal: elements, `splat` or hash.
pub(super) fn print(constant: &Constant) -> String {
    let tensor = &constant.tensor;
    let by_hash = || format!("#{:016x}", constant_hash(tensor));
    if constant.encoding != Encoding::Dense {
        return by_hash();
    }
    if tensor.len() <= MAX_LISTED
        && let Some(elements) = elements(tensor)
    {
        return match &elements[..] {
            [one] if tensor.rank() == 0 => one.clone(),
            [first, rest @ ..] if rest.len() >= 4 && rest.iter().all(|next| next == first) => {
                format!("splat {first}")
            }
            _ => format!("[{}]", elements.join(", ")),
        };
    }
    match tensor.dtype().element_bytes() {
        Some(width) if tensor.bytes().len() <= MAX_SPLAT => {
            let mut cells = tensor.bytes().chunks_exact(width);
            match cells.next() {
                Some(first) if cells.all(|cell| cell == first) => {
                    splat(tensor, first).unwrap_or_else(by_hash)
                }
                _ => by_hash(),
            }
        }
        _ => by_hash(),
    }
}

fn splat(tensor: &Tensor, first: &[u8]) -> Option<String> {
    let one = Tensor::new(tensor.dtype(), Vec::new(), Buffer::copy_of(first)).ok()?;
    Some(format!("splat {}", elements(&one)?.first()?))
}

fn float<T: std::fmt::Debug>(value: T, nan_bits: Option<u64>) -> String {
    match nan_bits {
        Some(bits) => format!("0x{bits:x}"),
        None => format!("{value:?}"),
    }
}

/// Each element as text; `None` for strings that are no UTF-8.
fn elements(tensor: &Tensor) -> Option<Vec<String>> {
    macro_rules! each {
        ($ty:ty, $print:expr) => {
            tensor.to_slice::<$ty>().ok()?.iter().map($print).collect()
        };
    }
    Some(match tensor.dtype() {
        DType::Bool => each!(u8, |v| (if *v == 0 { "false" } else { "true" }).to_string()),
        DType::I8 => each!(i8, i8::to_string),
        DType::U8 => each!(u8, u8::to_string),
        DType::I16 => each!(i16, i16::to_string),
        DType::U16 => each!(u16, u16::to_string),
        DType::I32 => each!(i32, i32::to_string),
        DType::U32 => each!(u32, u32::to_string),
        DType::I64 => each!(i64, i64::to_string),
        DType::U64 => each!(u64, u64::to_string),
        DType::F16 => each!(f16, |v| float(v.to_f32(), v.is_nan().then(|| v.to_bits().into()))),
        DType::BF16 => each!(bf16, |v| float(v.to_f32(), v.is_nan().then(|| v.to_bits().into()))),
        DType::F32 => each!(f32, |v| float(v, v.is_nan().then(|| v.to_bits().into()))),
        DType::F64 => each!(f64, |v| float(v, v.is_nan().then(|| v.to_bits()))),
        DType::String => {
            let text =
                |bytes: &Vec<u8>| Some(serde_json::Value::from(std::str::from_utf8(bytes).ok()?).to_string());
            tensor.strings().ok()?.iter().map(text).collect::<Option<_>>()?
        }
        // Packed and narrow types: the bytes of the buffer.
        _ => tensor.bytes().iter().map(|byte| format!("0x{byte:02x}")).collect(),
    })
}

/// A tensor from element texts.
pub(super) fn read(dtype: DType, shape: Shape, texts: &[String]) -> Result<Tensor, String> {
    if dtype == DType::String {
        let strings = texts.iter().map(|text| text.clone().into_bytes()).collect();
        return Tensor::from_strings(strings, &shape).map_err(|error| error.to_string());
    }
    let mut bytes = Vec::with_capacity(texts.len().saturating_mul(8));
    for text in texts {
        append(dtype, text, &mut bytes).ok_or_else(|| format!("`{text}` is not an element of {dtype}"))?;
    }
    Tensor::new(dtype, shape, Buffer::copy_of(&bytes)).map_err(|error| error.to_string())
}

/// A tensor of equal elements; `limit` bounds its bytes.
pub(super) fn read_splat(dtype: DType, shape: Shape, text: &str, limit: usize) -> Result<Tensor, String> {
    let mut one = Vec::new();
    append(dtype, text, &mut one).ok_or_else(|| format!("`{text}` is not an element of {dtype}"))?;
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    let bytes = count.and_then(|count| dtype.storage_bytes(count)).filter(|&bytes| bytes <= limit);
    if dtype.element_bytes() != Some(one.len()) || bytes.is_none() {
        return Err(format!("a {dtype}{shape:?} cannot be given by one element here"));
    }
    let mut tensor = Tensor::zeros(dtype, &shape).map_err(|error| error.to_string())?;
    tensor.bytes_mut().chunks_exact_mut(one.len()).for_each(|cell| cell.copy_from_slice(&one));
    Ok(tensor)
}

fn append(dtype: DType, text: &str, bytes: &mut Vec<u8>) -> Option<()> {
    let bits = text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
    macro_rules! number {
        ($ty:ty) => {
            bytes.extend(text.parse::<$ty>().ok()?.to_le_bytes())
        };
    }
    macro_rules! float {
        ($parse:expr, $bits:ty, $from_bits:path) => {
            bytes.extend(
                match bits {
                    Some(bits) => $from_bits(<$bits>::try_from(bits.ok()?).ok()?),
                    None => $parse,
                }
                .to_le_bytes(),
            )
        };
    }
    match dtype {
        DType::Bool => bytes.push(match text {
            "true" => 1,
            "false" => 0,
            _ => return None,
        }),
        DType::I8 => number!(i8),
        DType::U8 => number!(u8),
        DType::I16 => number!(i16),
        DType::U16 => number!(u16),
        DType::I32 => number!(i32),
        DType::U32 => number!(u32),
        DType::I64 => number!(i64),
        DType::U64 => number!(u64),
        DType::F16 => float!(f16::from_f32(text.parse().ok()?), u16, f16::from_bits),
        DType::BF16 => float!(bf16::from_f32(text.parse().ok()?), u16, bf16::from_bits),
        DType::F32 => float!(text.parse::<f32>().ok()?, u32, f32::from_bits),
        DType::F64 => float!(text.parse::<f64>().ok()?, u64, f64::from_bits),
        DType::String => return None,
        _ => bytes.push(u8::try_from(bits?.ok()?).ok()?),
    }
    Some(())
}
