//! tract-onnx as an independent oracle.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use lathe_tensor::{DType, Tensor};
use tract_onnx::prelude::*;

/// Runs a model in tract on these inputs, by name.
///
/// # Errors
/// What tract says where it does not load or run the model; a panic of tract's is an error too.
pub fn run(path: &Path, inputs: &[(String, Tensor)]) -> Result<Vec<Tensor>, String> {
    catch_unwind(AssertUnwindSafe(|| run_model(path, inputs)))
        .unwrap_or_else(|_| Err("tract panicked".to_string()))
}

fn run_model(path: &Path, inputs: &[(String, Tensor)]) -> Result<Vec<Tensor>, String> {
    let text = |error: TractError| format!("{error:#}");
    let mut model = tract_onnx::onnx().model_for_path(path).map_err(text)?;
    let outlets = model.input_outlets().map_err(text)?.to_vec();
    let mut values = tvec!();
    for (index, outlet) in outlets.iter().enumerate() {
        let name = model.node(outlet.node).name.clone();
        let (_, tensor) = inputs
            .iter()
            .find(|(input, _)| *input == name)
            .ok_or_else(|| format!("tract has an input `{name}` that Lathe does not have"))?;
        let value = to_tract(tensor)?;
        model
            .set_input_fact(index, InferenceFact::dt_shape(value.datum_type(), value.shape()))
            .map_err(text)?;
        values.push(value.into_tvalue());
    }
    let outputs =
        model.into_optimized().and_then(|model| model.into_runnable()).and_then(|plan| plan.run(values));
    outputs.map_err(text)?.iter().map(|value| from_tract(value)).collect()
}

macro_rules! dtypes {
    ($($dtype:ident $ty:ty,)*) => {
        fn to_tract(tensor: &Tensor) -> Result<tract_onnx::prelude::Tensor, String> {
            let shape = tensor.shape();
            match tensor.dtype() {
                $(DType::$dtype => {
                    let elements = tensor.to_slice::<$ty>().map_err(|error| error.to_string())?;
                    tract_onnx::prelude::Tensor::from_shape(shape, &elements).map_err(|error| error.to_string())
                })*
                DType::Bool => {
                    let elements: Vec<bool> = tensor.bytes().iter().map(|byte| *byte != 0).collect();
                    tract_onnx::prelude::Tensor::from_shape(shape, &elements).map_err(|error| error.to_string())
                }
                dtype => Err(format!("{dtype} inputs are not passed to tract")),
            }
        }

        fn from_tract(tensor: &tract_onnx::prelude::Tensor) -> Result<Tensor, String> {
            let shape = tensor.shape();
            $(if tensor.datum_type() == <$ty>::datum_type() {
                let view = tensor.to_plain_array_view::<$ty>().map_err(|error| error.to_string())?;
                let elements: Vec<$ty> = view.iter().copied().collect();
                return Tensor::from_slice(&elements, shape).map_err(|error| error.to_string());
            })*
            if tensor.datum_type() == bool::datum_type() {
                let view = tensor.to_plain_array_view::<bool>().map_err(|error| error.to_string())?;
                let elements: Vec<bool> = view.iter().copied().collect();
                return Tensor::from_bools(&elements, shape).map_err(|error| error.to_string());
            }
            Err(format!("tract returned {:?}", tensor.datum_type()))
        }
    };
}

dtypes! { F32 f32, F64 f64, I64 i64, I32 i32, I16 i16, I8 i8, U8 u8, U16 u16, U32 u32, U64 u64, }
