//! Inference against evaluation: sizes and known elements that were inferred are those that come out.

use std::cell::RefCell;
use std::collections::BTreeMap;

use lathe_ops::Limits;
use lathe_tensor::{DType, Tensor};
use proptest::prelude::*;

use crate::{Dim, EvaluateError, EvaluateOptions, Module, evaluate, random};

/// Inputs of the module's `main` under these values of its symbols, by order of their names.
fn inputs(module: &Module, sizes: &[i64]) -> Option<Vec<Tensor>> {
    let function = module.function(module.main()?);
    let bound = RefCell::new(BTreeMap::new());
    let bind = |symbol: &crate::Symbol| {
        let mut bound = bound.borrow_mut();
        let next = sizes.get(bound.len() % sizes.len()).copied()?;
        Some(*bound.entry(symbol.clone()).or_insert(next))
    };
    let tensor = |id: &crate::ValueId| {
        let ty = function.ty(*id);
        let size = |dim: &Dim| usize::try_from(dim.evaluate(&bind)?).ok();
        let shape = ty.dims.iter().map(size).collect::<Option<Vec<_>>>()?;
        let count: usize = shape.iter().product();
        match ty.dtype {
            DType::F32 => {
                Tensor::from_slice(&(0..count).map(|i| i as f32 / 4.0 - 1.0).collect::<Vec<_>>(), &shape)
            }
            DType::I64 => Tensor::from_slice(&(0..count).map(|i| i as i64 % 3).collect::<Vec<_>>(), &shape),
            _ => Tensor::from_bools(&(0..count).map(|i| i % 2 == 0).collect::<Vec<_>>(), &shape),
        }
        .ok()
    };
    function.inputs().iter().map(tensor).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn inferred_sizes_come_out(
        bytes in prop::collection::vec(any::<u8>(), 0..160),
        sizes in prop::collection::vec(prop::sample::select(vec![0i64, 1, 2, 3, 7]), 3),
    ) {
        let module = random::module(&bytes);
        let Some(inputs) = inputs(&module, &sizes) else { return Ok(()) };
        let main = module.main().ok_or(TestCaseError::fail("no main"))?;
        let limits = Limits { max_bytes: 16 << 20, cancel: None, custom: None };
        let options = EvaluateOptions { limits, check: true };
        let result = evaluate(&module, main, &inputs, &options);
        if let Err(error @ (EvaluateError::Bug { .. } | EvaluateError::BadInput { .. })) = result {
            return Err(TestCaseError::fail(format!("{error}\nsizes {sizes:?}\n{module}")));
        }
    }
}
