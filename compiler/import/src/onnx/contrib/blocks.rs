//! Weights of few bits in blocks that share a scale.

use lathe_ir::{Dim, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_ops::gather::Gather;
use lathe_ops::matmul::MatMul;
use lathe_ops::quant::DequantizeLinear;
use lathe_ops::shape::{Transpose, Unsqueeze};
use lathe_tensor::{DType, Tensor};

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, axis, positive};

/// The 16 values of 4-bit floats and normal floats of bitsandbytes, by code.
const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_5,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_5,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];
#[rustfmt::skip]
const NF4: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

fn bits(node: &Node<'_, '_>) -> Result<i64, Fault> {
    match node.attributes.int_or("bits", 4)? {
        bits @ (2 | 4 | 8) => Ok(bits),
        bits => Err(Fault::unsupported(format!("weights of {bits} bits"))),
    }
}

/// The codes in the bytes of the last axis, the first in the lowest bits, as u8.
fn codes(node: &mut Node<'_, '_>, x: ValueId, bits: i64) -> Result<ValueId, Fault> {
    let shifts: Vec<u8> = (0..8 / bits).map(|index| (index * bits) as u8).collect();
    unpacked(node, x, &shifts, bits)
}

fn unpacked(node: &mut Node<'_, '_>, x: ValueId, shifts: &[u8], bits: i64) -> Result<ValueId, Fault> {
    if bits == 8 {
        return Ok(x);
    }
    let mut dims = node.dims(x).to_vec();
    let Some(last) = dims.pop() else { return Err(Fault::bad("packed codes need an axis")) };
    let wide = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![-1]) }), &[x])?;
    let shifts_value = node.constant(Tensor::from_slice(shifts, &[shifts.len()])?);
    let mask = node.number(DType::U8, f64::from(2u32.pow(bits as u32) - 1))?;
    let shifted = node.binary(Binary::ShiftRight, wide, shifts_value)?;
    let masked = node.binary(Binary::BitAnd, shifted, mask)?;
    dims.push(last.scale(shifts.len() as i64));
    node.reshape(masked, dims)
}

/// Packed bytes of a constant as a tensor of a dtype of so few bits, `[rows, codes of a row]`.
fn narrow(node: &mut Node<'_, '_>, x: ValueId, bits: i64, rows: i64) -> Option<ValueId> {
    let function = node.importer.module.function(node.function());
    let Source::Constant(constant) = function.value(x).source else { return None };
    let tensor = &node.importer.module.constant(constant).tensor;
    let to = match bits {
        2 => DType::U2,
        4 => DType::U4,
        _ => return None,
    };
    let rows = usize::try_from(rows).ok().filter(|&rows| rows > 0 && tensor.len().is_multiple_of(rows))?;
    let shape = vec![rows, tensor.len() / rows * (8 / bits as usize)];
    let narrow = Tensor::new(to, shape, tensor.buffer().clone()).ok()?;
    Some(node.constant(narrow))
}

/// MatMulNBits: `a @ w^T + bias`, where `w[n, k]` is `(code - zero_point) * scale`, a scale for each block of a row.
pub(super) fn matmul_nbits(node: &mut Node<'_, '_>) -> Outputs {
    let (bits, [k, n]) = (bits(node)?, ["K", "N"]);
    let size = |name: &str| positive(name, node.attributes.required_int(name)?).map(|size| size as i64);
    let (k, n, block) = (size(k)?, size(n)?, size("block_size")?);
    let coarse = node.attributes.int_or("accuracy_level", 0)? == 4;
    node.attributes.ignore(&["weight_prepacked"]);
    let (a, packed, scales) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let blocks = (k + block - 1) / block;
    let dims = |sizes: [i64; 2]| sizes.map(Dim::constant).to_vec();
    let scales = node.reshape(scales, dims([n, blocks]))?;
    let zero_points = zero_points(node, 3, bits, [n, blocks])?;
    if let Some(groups) = node.optional(4) {
        let weight = ordered(node, (packed, bits), scales, &zero_points, (groups, [n, k]))?;
        return product(node, a, weight, coarse);
    }
    let weight = match zero_points {
        ZeroPoints::Float(zeros) => {
            let codes = codes(node, packed, bits)?;
            let codes = node.cast(codes, node.dtype(scales))?;
            let split = [n, blocks, block].map(Dim::constant).to_vec();
            let codes = node.reshape(codes, split)?;
            let [zeros, scales] =
                [zeros, scales].map(|x| (x, Op::Unsqueeze(Unsqueeze { axes: Some(vec![2]) })));
            let (zeros, scales) = (node.add(zeros.1, &[zeros.0])?, node.add(scales.1, &[scales.0])?);
            let centered = node.binary(Binary::Sub, codes, zeros)?;
            let weight = node.binary(Binary::Mul, centered, scales)?;
            node.reshape(weight, dims([n, blocks * block]))?
        }
        ZeroPoints::Codes(zeros) => {
            let codes = match narrow(node, packed, bits, n) {
                Some(codes) => codes,
                None => codes(node, packed, bits)?,
            };
            let codes = node.reshape(codes, dims([n, blocks * block]))?;
            let zeros = node.cast(zeros, node.dtype(codes))?;
            let op = DequantizeLinear { axis: 1, block_size: block as usize, to: node.dtype(scales) };
            node.add(Op::DequantizeLinear(op), &[codes, scales, zeros])?
        }
    };
    let weight = if blocks * block == k { weight } else { node.cut(weight, 1, 0, k)? };
    product(node, a, weight, coarse)
}

/// `a` times the transposed weight `[n, k]`, with the bias.
fn product(node: &mut Node<'_, '_>, a: ValueId, weight: ValueId, coarse: bool) -> Outputs {
    let weight = node.add(Op::Transpose(Transpose { perm: vec![1, 0] }), &[weight])?;
    let weight = node.cast(weight, node.dtype(a))?;
    let product = node.add(Op::MatMul(MatMul { coarse }), &[a, weight])?;
    let bias = node.optional(5);
    Ok(vec![node.plus(product, bias)?])
}

/// The weight `[n, k]` whose columns stand in any order: `groups` says which block's scale and zero point each has.
fn ordered(
    node: &mut Node<'_, '_>,
    (packed, bits): (ValueId, i64),
    scales: ValueId,
    (ZeroPoints::Float(zeros) | ZeroPoints::Codes(zeros)): &ZeroPoints,
    (groups, [n, k]): (ValueId, [i64; 2]),
) -> Result<ValueId, Fault> {
    // It may name columns beyond the last.
    let groups = if node.known_size(groups, 0, "the order of the columns")? > k {
        node.cut(groups, 0, 0, k)?
    } else {
        groups
    };
    let codes = codes(node, packed, bits)?;
    let width = node.dims(codes).iter().skip(1).fold(Dim::constant(1), |width, dim| width.mul(dim));
    let codes = node.reshape(codes, vec![Dim::constant(n), width])?;
    let codes = node.cut(codes, 1, 0, k)?;
    let (codes, zeros) = (node.cast(codes, node.dtype(scales))?, node.cast(*zeros, node.dtype(scales))?);
    let by_column = Op::Gather(Gather { axis: 1 });
    let (zeros, scales) =
        (node.add(by_column.clone(), &[zeros, groups])?, node.add(by_column, &[scales, groups])?);
    let centered = node.binary(Binary::Sub, codes, zeros)?;
    node.binary(Binary::Mul, centered, scales)
}

enum ZeroPoints {
    Float(ValueId),
    Codes(ValueId),
}

/// The zero point of each block: floats, or codes packed like the weight's, half of the range where absent.
fn zero_points(
    node: &mut Node<'_, '_>,
    index: usize,
    bits: i64,
    [n, blocks]: [i64; 2],
) -> Result<ZeroPoints, Fault> {
    let dims = [n, blocks].map(Dim::constant).to_vec();
    let Some(zeros) = node.optional(index) else {
        let middle = vec![1u8 << (bits - 1); usize::try_from(n.saturating_mul(blocks)).unwrap_or(0)];
        let tensor = Tensor::from_slice(&middle, &[n as usize, blocks as usize])?;
        return Ok(ZeroPoints::Codes(node.constant(tensor)));
    };
    if node.dtype(zeros).is_float() {
        return Ok(ZeroPoints::Float(node.reshape(zeros, dims)?));
    }
    let row = (blocks * bits + 7) / 8;
    let bytes = node.reshape(zeros, [n, row].map(Dim::constant).to_vec())?;
    let codes = codes(node, bytes, bits)?;
    Ok(ZeroPoints::Codes(if row * (8 / bits) == blocks { codes } else { node.cut(codes, 1, 0, blocks)? }))
}

/// GatherBlockQuantized: slices of a packed table by index, dequantised.
pub(super) fn gather(node: &mut Node<'_, '_>) -> Outputs {
    let bits = bits(node)?;
    let block = positive("block_size", node.attributes.int_or("block_size", 128)?)?;
    let (data, indices, scales) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let rank = node.rank(data);
    let gathered = axis(node.attributes.int_or("gather_axis", 0)?, rank)?;
    let blocked = axis(node.attributes.int_or("quantize_axis", 1)?, rank)?;
    let packed = node.dtype(data) == DType::U8 && bits < 8;
    if gathered == blocked || packed && blocked + 1 != rank {
        return Err(Fault::unsupported("blocks along another axis than the last, or the gathered one"));
    }
    let rows = |node: &mut Node<'_, '_>, x: ValueId| {
        node.add(Op::Gather(Gather { axis: gathered as i64 }), &[x, indices])
    };
    let codes_of = |node: &mut Node<'_, '_>, x: ValueId| {
        let taken = rows(node, x)?;
        if packed { codes(node, taken, bits) } else { Ok(taken) }
    };
    let codes = codes_of(node, data)?;
    let zeros = match node.optional(3) {
        Some(zeros) => {
            let blocks = node.dims(scales)[blocked].as_constant();
            let zeros = codes_of(node, zeros)?;
            match blocks {
                Some(blocks) if packed => Some(node.cut(zeros, -1, 0, blocks)?),
                _ => Some(zeros),
            }
        }
        None => None,
    };
    let scales = rows(node, scales)?;
    // Unsigned codes stand around the middle of their range.
    let zeros = match zeros {
        Some(zeros) => Some(zeros),
        None if node.dtype(codes).is_signed_integer() => None,
        None => {
            let middle = node.number_like(codes, f64::from(1u32 << (bits - 1)))?;
            let shape = node.sizes(node.dims(scales).to_vec())?;
            Some(node.add(Op::Expand(lathe_ops::shape::Expand {}), &[middle, shape])?)
        }
    };
    let place = if blocked > gathered { blocked + node.rank(indices) - 1 } else { blocked };
    let op = DequantizeLinear { axis: place as i64, block_size: block, to: node.dtype(scales) };
    node.add_all(Op::DequantizeLinear(op), &[Some(codes), Some(scales), zeros], 1)
}

/// MatMulBnb4: `a @ w^T`, where `w[n, k]` is a value by code times the scale of its block; the first code of a byte in its
/// high bits.
pub(super) fn matmul_bnb4(node: &mut Node<'_, '_>) -> Outputs {
    let size = |name: &str| positive(name, node.attributes.required_int(name)?).map(|size| size as i64);
    let (k, n, block) = (size("K")?, size("N")?, size("block_size")?);
    let table = match node.attributes.required_int("quant_type")? {
        0 => FP4,
        1 => NF4,
        other => return Err(Fault::bad(format!("attribute `quant_type` is {other}, not 0 or 1"))),
    };
    node.attributes.ignore(&["training_mode", "transB"]);
    let (a, packed, scales) = (node.input(0)?, node.input(1)?, node.input(2)?);
    if k * n % block != 0 || k * n % 2 != 0 {
        return Err(Fault::unsupported("weights that do not fill their blocks"));
    }
    let bytes = node.reshape(packed, vec![Dim::constant(k * n / 2)])?;
    let codes = unpacked(node, bytes, &[4, 0], 4)?;
    let codes = node.cast(codes, DType::I64)?;
    let table = node.constant(Tensor::from_slice(&table, &[16])?);
    let values = node.add(Op::Gather(Gather { axis: 0 }), &[table, codes])?;
    let values = node.cast(values, node.dtype(scales))?;
    let values = node.reshape(values, [k * n / block, block].map(Dim::constant).to_vec())?;
    let scales = node.reshape(scales, [k * n / block, 1].map(Dim::constant).to_vec())?;
    let weight = node.binary(Binary::Mul, values, scales)?;
    let weight = node.reshape(weight, [n, k].map(Dim::constant).to_vec())?;
    let weight = node.add(Op::Transpose(Transpose { perm: vec![1, 0] }), &[weight])?;
    Ok(vec![node.add(Op::MatMul(MatMul::default()), &[a, weight])?])
}
