//! Quantised constants: which steps read them as blocks, and what the others read.

use lathe_ir::parse_with;
use lathe_plan::{Activations, Packing, PlanOptions, PlanText, pack, plan};
use lathe_tensor::{BlockFormat, Buffer, DType, Tensor};

/// Blocks whose bytes count up.
fn bytes(_: u64, dtype: DType, shape: &[usize]) -> Option<Tensor> {
    let bytes: Vec<u8> = (0..shape[0]).map(|i| (i % 61) as u8).collect();
    Tensor::new(dtype, shape.to_vec(), Buffer::copy_of(&bytes)).ok()
}

const TEXT: &str = r#"
graph "main" (ids: i64[s]) {
  c0 = const f32[40, 64] #0000000000000001 {"blocked":"q8_0"}
  c1 = const f32[96, 64] #0000000000000002 {"blocked":"q4_1"}
  c2 = const f32[1, 64] #0000000000000003 {"blocked":"q5_0"}
  c3 = const f32[64, 32] #0000000000000004 {"blocked":"q4_0"}
  %0 = gather c0, ids {axis=0}
  %1 = mul %0, c2
  %2 = transpose c1 {perm=[1,0]}
  %3 = matmul %1, %2
  %4 = transpose c0 {perm=[1,0]}
  %5 = matmul %1, %4
  %6 = matmul %1, c3
  return %3 as a, %5 as b, %6 as c
}
"#;

#[test]
fn products_and_rows_read_blocks_and_other_steps_decoded_elements() {
    let module = parse_with(TEXT, &bytes).unwrap();
    let main = module.main().unwrap();
    for (activations, int8) in
        [(Activations::Int8, true), (Activations::ByFormat, true), (Activations::F32, false)]
    {
        let options = PlanOptions { activations, ..PlanOptions::default() };
        let planned = plan(&module, main, &options).unwrap();
        planned.plan.check().unwrap();
        let text = PlanText(&planned.plan).to_string();
        let count = |builtin: &str| text.matches(builtin).count();
        assert_eq!((count(": gather_encoded"), count(": matmul_encoded")), (1, 2), "{text}");
        assert_eq!(count(": matmul_packed"), 1, "a matrix stored as [k, n] has no blocks along k\n{text}");
        assert_eq!(count("8-bit activations"), if int8 { 2 } else { 0 }, "{text}");
        let mut packings: Vec<_> = planned.weights.iter().map(|weight| weight.packing).collect();
        packings.sort_by_key(|packing| format!("{packing:?}"));
        let blocks = |n, format| Packing::Blocks { count: 1, k: 64, n, format };
        // The table is stored once for its rows and for the product.
        assert_eq!(
            packings,
            [
                blocks(40, BlockFormat::Q8_0),
                blocks(96, BlockFormat::Q4_1),
                Packing::Dense,
                Packing::Matrix { k: 64, n: 32, transposed: false, offset: 0 },
            ]
        );
        for weight in &planned.weights {
            let packed = pack(&module, weight).unwrap();
            let dtype = if matches!(weight.packing, Packing::Blocks { .. }) { DType::U8 } else { DType::F32 };
            assert_eq!(packed.dtype(), dtype, "{}", weight.name);
            let constant = module.constant(weight.constant);
            if weight.packing == Packing::Dense {
                assert_eq!(packed.bytes(), constant.dense().unwrap().bytes());
            }
        }
    }
}

const EXPERTS: &str = r#"
graph "main" (x: f32[s, 64], logits: f32[s, 2]) {
  c0 = const f32[2, 96, 64] #0000000000000001 {"blocked":"q8_0"}
  c1 = const f32[2, 64, 96] #0000000000000002 {"widened":"bf16"}
  %0 = moe x, logits, c0, c1 {experts=2,top_k=1,router="softmax",renormalise=false,epsilon=0.0,scale=1.0,groups=null,capacity=null,activation="silu",gate="none",clamped=null,transposed=true,shared_experts=0}
  return %0 as y
}
"#;

/// Bytes that count up, for any shape.
fn elements(_: u64, dtype: DType, shape: &[usize]) -> Option<Tensor> {
    let count = dtype.storage_bytes(shape.iter().product())?;
    let bytes: Vec<u8> = (0..count).map(|i| (i % 61) as u8).collect();
    Tensor::new(dtype, shape.to_vec(), Buffer::copy_of(&bytes)).ok()
}

#[test]
fn experts_are_read_as_they_are_stored() {
    let module = parse_with(EXPERTS, &elements).unwrap();
    let planned = plan(&module, module.main().unwrap(), &PlanOptions::default()).unwrap();
    planned.plan.check().unwrap();
    let text = PlanText(&planned.plan).to_string();
    assert!(text.contains("2 experts [64, 96]: Q8_0 blocks, 8-bit activations, chosen ones only"), "{text}");
    assert!(text.contains("2 experts [96, 64]: packed panels of bf16, widened, chosen ones only"), "{text}");
    let mut packings: Vec<_> = planned.weights.iter().map(|weight| weight.packing).collect();
    packings.sort_by_key(|packing| format!("{packing:?}"));
    assert_eq!(
        packings,
        [
            Packing::Blocks { count: 2, k: 64, n: 96, format: BlockFormat::Q8_0 },
            Packing::Halves { count: 2, k: 96, n: 64, transposed: true, dtype: DType::BF16 },
        ]
    );
    for weight in &planned.weights {
        let packed = pack(&module, weight).unwrap();
        assert_eq!(packed.dtype(), weight.packing.dtype());
        assert_eq!(Some(Ok(packed.len())), weight.packing.packed_len());
    }
}

#[test]
fn only_f32_is_made_of_wider_floats() {
    for wrong in [
        r#"f32[2, 96, 64] #0000000000000001 {"widened":"f32"}"#,
        r#"f16[2, 96, 64] #0000000000000001 {"widened":"bf16"}"#,
    ] {
        let text = EXPERTS.replace(r#"f32[2, 96, 64] #0000000000000001 {"blocked":"q8_0"}"#, wrong);
        assert_ne!(text, EXPERTS);
        assert!(parse_with(&text, &elements).is_err(), "{wrong}");
    }
}

#[test]
fn blocks_that_do_not_make_the_shape_are_refused() {
    for wrong in ["f32[40, 60]", "f32[40]", "i32[40, 64]"] {
        let text = TEXT.replace("f32[40, 64]", wrong);
        assert!(parse_with(&text, &bytes).is_err(), "{wrong}");
    }
    let short = |hash: u64, dtype: DType, shape: &[usize]| bytes(hash, dtype, &[shape[0] - 1]);
    assert!(parse_with(TEXT, &short).is_err());
}

#[test]
fn products_of_the_operator_in_floats_are_coarse_where_they_may_be() {
    let text = r#"
graph "main" (x: f32[s, 64]) {
  c0 = const f32[40, 64] #0000000000000001 {"blocked":"n4_0"}
  %0 = transpose c0 {perm=[1,0]}
  %1 = matmul x, %0
  %2 = matmul x, %0 {coarse=true}
  return %1 as exact, %2 as coarse
}
"#;
    let module = parse_with(text, &bytes).unwrap();
    let main = module.main().unwrap();
    for (activations, int8) in [(Activations::Int8, 2), (Activations::ByFormat, 1), (Activations::F32, 0)] {
        let planned = plan(&module, main, &PlanOptions { activations, ..PlanOptions::default() }).unwrap();
        let text = PlanText(&planned.plan).to_string();
        assert_eq!(text.matches("N4_0 blocks, 8-bit activations").count(), int8, "{text}");
    }
}
