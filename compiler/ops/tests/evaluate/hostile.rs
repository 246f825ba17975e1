//! No input makes an op panic, hang or take more memory than allowed.

use std::cell::Cell;
use std::time::{Duration, Instant};

use lathe_tensor::{Buffer, SplitMix64};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// A small generator of nonsense, seeded by proptest.
struct Chaos(SplitMix64);

impl Chaos {
    fn below(&mut self, bound: usize) -> usize {
        (self.0.bits() % bound as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn integer(&mut self) -> i64 {
        match self.below(8) {
            0 => self.of(&[i64::MIN, i64::MAX, -1 << 40, 1 << 40, i64::MIN + 1]),
            _ => self.below(7) as i64 - 3,
        }
    }

    fn size(&mut self) -> usize {
        match self.below(12) {
            0 => self.of(&[usize::MAX, 1 << 40, 1 << 62, 1 << 31]),
            _ => self.below(5),
        }
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(5)).map(|_| item(self)).collect()
    }

    fn float(&mut self) -> Value {
        self.of(&[0.0, -1.0, 0.5, 3.0, 1e30]).into()
    }

    fn maybe(&mut self, value: Value) -> Value {
        if self.flag() { value } else { Value::Null }
    }

    fn dtype(&mut self) -> DType {
        match self.below(3) {
            0 => self.of(DType::ALL),
            _ => self.of(&[DType::F32, DType::I64, DType::F16, DType::Bool, DType::U8, DType::I32]),
        }
    }

    fn padding(&mut self, rank: usize) -> Value {
        match self.below(4) {
            0 => json!("same_upper"),
            1 => json!("same_lower"),
            _ => {
                json!({"explicit": {"begins": self.numbers(rank, Self::integer), "ends": self.numbers(rank, Self::integer)}})
            }
        }
    }

    /// A list that mostly has `rank` numbers.
    fn numbers<T>(&mut self, rank: usize, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let rank = if self.below(10) == 0 { self.below(4) } else { rank };
        (0..rank).map(|_| item(self)).collect()
    }

    fn window(&mut self) -> Value {
        let rank = 1 + self.below(2);
        json!({
            "kernel": self.numbers(rank, Self::size), "strides": self.numbers(rank, Self::size),
            "dilations": self.numbers(rank, Self::size), "padding": self.padding(rank),
            "groups": 1 + self.below(3), "activation": "relu", "output_padding": self.numbers(rank, Self::size),
            "output_shape": null, "ceil_mode": self.flag(), "column_major": self.flag(),
            "count_include_pad": self.flag(), "p": self.float(), "offset_groups": self.below(3),
        })
    }

    fn resampling(&mut self) -> Value {
        let axes = json!(self.list(Self::integer));
        json!({
            "mode": self.of(&["nearest", "linear", "cubic"]),
            "coordinates": self.of(&["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
                "asymmetric", "tf_crop_and_resize"]),
            "rounding": self.of(&["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
            "cubic_coefficient": self.float(), "exclude_outside": self.flag(), "extrapolation_value": self.float(),
            "antialias": self.flag(), "axes": self.maybe(axes),
            "policy": self.of(&["stretch", "not_larger", "not_smaller"]),
        })
    }

    fn experts(&mut self) -> Value {
        let groups = json!({"count": self.size(), "top": self.size()});
        let (capacity, clamped) = (json!(self.size()), json!({"alpha": self.float(), "limit": self.float()}));
        json!({
            "experts": self.size(), "top_k": self.size(), "router": self.of(&["softmax", "sigmoid"]),
            "renormalise": self.flag(), "epsilon": self.float(), "scale": self.float(), "groups": self.maybe(groups),
            "capacity": self.maybe(capacity), "activation": self.of(&["relu", "silu", "gelu"]),
            "gate": self.of(&["none", "halves", "interleaved"]), "clamped": self.maybe(clamped),
            "transposed": self.flag(), "shared_experts": self.size(),
        })
    }

    fn pages(&mut self) -> Value {
        let window = json!(self.size());
        json!({
            "kv_heads": self.size(), "qk_head_dim": self.size(), "v_head_dim": self.size(),
            "window": self.maybe(window), "scale": self.float(), "softcap": self.float(),
        })
    }

    /// Everything that any other op may ask for; serde takes what it knows.
    fn attributes(&mut self, name: &str) -> Value {
        let mut all = match name {
            "conv" | "conv_transpose" | "max_pool" | "average_pool" | "lp_pool" | "max_unpool"
            | "deform_conv" | "conv_integer" => return self.window(),
            "resize" => return self.resampling(),
            "moe" => return self.experts(),
            "custom" => json!({"domain": "com.example", "operator": "Unknown", "attributes": {}}),
            "paged_attention" => return self.pages(),
            "reduce" => json!({"kind": self.of(&["sum", "mean", "max", "log_sum_exp", "l2", "prod"])}),
            "grid_sample" => json!({
                "interpolation": self.of(&["nearest", "linear", "cubic"]),
                "border": self.of(&["zeros", "clamp", "reflect"]), "align_corners": self.flag(),
            }),
            "linear_attention" => json!({
                "q_heads": self.below(4), "kv_heads": self.below(3), "scale": self.float(),
                "rule": self.of(&["linear", "gated", "delta", "gated_delta"]),
            }),
            "string_normalizer" | "string_split" | "regex_full_match" | "tf_idf" => {
                let limit = json!(self.size());
                return json!({
                    "case": self.of(&["keep", "lower", "upper"]), "case_sensitive": self.flag(), "stopwords": ["1"],
                    "delimiter": self.of(&["", "1", "-"]), "limit": self.maybe(limit),
                    "pattern": self.of(&["[0-9]*", "(", "(-?1|2)+"]), "mode": self.of(&["count", "weight", "product"]),
                    "min_length": self.size(), "max_length": self.size(), "max_skip": self.size(),
                    "starts": self.list(|chaos| chaos.below(4)), "columns": self.list(Self::size), "weights": [0.5],
                    "strings": [], "integers": self.list(Self::integer),
                });
            }
            "col2im" => {
                let sizes = self.list(Self::size);
                return json!({"strides": sizes, "dilations": [], "pads": self.list(Self::size)});
            }
            "pad" => json!({"mode": self.of(&["constant", "edge", "reflect", "wrap"])}),
            _ => json!({}),
        };
        let (axes, heads, rotary) = (json!(self.list(Self::integer)), json!(self.size()), json!(self.size()));
        let dtype = self.dtype().name();
        let common = json!({
            "alpha": self.float(), "beta": self.float(), "tanh": self.flag(), "to": dtype, "saturate": self.flag(),
            "activation": "none", "epsilon": self.float(), "momentum": self.float(), "training": self.flag(),
            "axis": self.integer(), "groups": self.size(), "per_group": self.flag(), "log": self.flag(),
            "axes": self.maybe(axes), "keep_dims": self.flag(), "noop_with_empty_axes": self.flag(),
            "min": self.flag(), "select_last": self.flag(), "largest": self.flag(), "sorted": true,
            "exclusive": self.flag(), "reverse": self.flag(), "start": self.integer(), "end": self.integer(),
            "allow_zero": self.flag(), "perm": self.list(Self::size), "outputs": self.size(), "dtype": dtype,
            "bits": self.0.bits(), "upper": self.flag(), "batch_dims": self.below(3),
            "reduction": self.of(&["replace", "add", "mul", "max", "min"]), "block_size": self.size(),
            "precision": null, "q_heads": self.maybe(heads.clone()), "kv_heads": self.maybe(heads.clone()),
            "causal": self.flag(), "scale": self.float(), "softcap": self.float(), "qk_output": self.below(5),
            "left_window": self.maybe(heads.clone()), "right_window": null, "softmax_in_f64": false,
            "bottom_right": self.flag(),
            "interleaved": self.flag(), "heads": self.maybe(heads), "rotary_dim": self.maybe(rotary),
            "hidden": self.size(), "direction": self.of(&["forward", "reverse", "bidirectional"]),
            "activations": [], "activation_alpha": [], "activation_beta": [], "clip": null,
            "input_forget": self.flag(), "batch_first": self.flag(), "linear_before_reset": self.flag(),
            "align_corners": self.flag(), "size": [self.size(), self.below(4)], "sampling": self.size(),
            "spatial_scale": self.float(), "max": self.flag(), "half_pixel": self.flag(),
            "center_point_box": self.flag(), "pixels": self.of(&["rgb", "bgr", "grayscale"]),
            "inverse": self.flag(), "onesided": self.flag(), "targets": self.size(), "classes": self.size(),
            "aggregate": self.of(&["sum", "average", "min", "max"]), "rank": self.size(), "new_axis": self.flag(),
            "reason": "it does not hold",
        });
        for (name, value) in common.as_object().into_iter().flatten() {
            if all.get(name).is_some() {
                continue;
            }
            all[name] = value.clone();
        }
        all
    }

    fn shape(&mut self) -> Vec<usize> {
        let rank = self.below(5);
        let mut shape: Vec<usize> = (0..rank).map(|_| self.below(4)).collect();
        if shape.contains(&0) && self.below(4) == 0 {
            let axis = self.below(rank);
            // Sizes that only a zero beside them allows.
            if shape[axis] != 0 {
                shape[axis] = 1 << (20 + self.below(20));
            }
        }
        shape
    }

    fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        match dtype {
            DType::String => {
                let strings = (0..count).map(|_| self.integer().to_string().into_bytes()).collect();
                Tensor::from_strings(strings, shape).expect("the shape fits")
            }
            DType::I64 => of(shape, &(0..count).map(|_| self.integer()).collect::<Vec<_>>()),
            DType::I32 => of(shape, &(0..count).map(|_| self.integer() as i32).collect::<Vec<_>>()),
            _ => {
                let bytes = dtype.storage_bytes(count).expect("small");
                let bytes: Vec<u8> = (0..bytes).map(|_| self.0.bits() as u8).collect();
                Tensor::new(dtype, shape.to_vec(), Buffer::copy_of(&bytes)).expect("the shape fits")
            }
        }
    }

    /// Inputs that often agree with each other in dtype and shape, so that they get past the first checks.
    fn inputs(&mut self, count: usize) -> Vec<Option<Tensor>> {
        let (dtype, shape) = (self.dtype(), self.shape());
        let mut inputs = Vec::new();
        for index in 0..count {
            let dtype =
                if self.below(3) > 0 { dtype } else { self.of(&[DType::I64, DType::F32, DType::Bool]) };
            let shape = match self.below(4) {
                0 => self.shape(),
                1 => vec![shape.len().min(4)],
                _ => shape.clone(),
            };
            let absent = index > 0 && self.below(6) == 0;
            inputs.push((!absent).then(|| self.tensor(dtype, &shape)));
        }
        inputs
    }
}

fn attack(name: &str, chaos: &mut Chaos) {
    let attributes: Map<String, Value> = chaos.attributes(name).as_object().cloned().unwrap_or_default();
    let Ok(op) = Op::from_attributes(name, attributes) else { panic!("{name}: attributes") };
    let arity = op.arity();
    let count = arity.min_inputs + chaos.below(arity.max_inputs.min(8) - arity.min_inputs.min(8) + 2);
    let inputs = chaos.inputs(count);
    let outputs = chaos.below(4).min(arity.max_outputs).max(arity.min_outputs.min(4));
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
    let (start, polls) = (Instant::now(), Cell::new(0));
    let cancel = || {
        polls.set(polls.get() + 1);
        start.elapsed() > Duration::from_millis(20)
    };
    let limits = Limits { max_bytes: 1 << 20, cancel: Some(&cancel), custom: None };
    if let Ok(results) = op.evaluate(&inputs, outputs, &limits) {
        assert_eq!(results.len(), outputs, "{name}");
        let bytes: usize = results.iter().map(|result| result.bytes().len()).sum();
        let shared: usize = inputs.iter().flatten().map(|input| input.bytes().len()).sum();
        assert!(bytes <= limits.max_bytes + 2 * shared, "{name} made {bytes} bytes");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{name} {op:?} did not look at the cancel flag");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nonsense_is_an_error_and_no_panic(seed: u64) {
        for name in Op::names() {
            attack(name, &mut Chaos(SplitMix64::new(seed ^ name.len() as u64)));
        }
    }
}

#[test]
fn nonsense_often_gets_past_the_first_checks() {
    let mut evaluated = std::collections::BTreeSet::new();
    for seed in 0..4000 {
        for name in [
            "conv",
            "max_pool",
            "softmax",
            "gather",
            "slice",
            "attention",
            "pad",
            "scatter_elements",
            "where",
        ] {
            let mut chaos = Chaos(SplitMix64::new(seed));
            let op = op(name, &chaos.attributes(name));
            let count = op.arity().min_inputs;
            let inputs = chaos.inputs(count);
            let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
            let limits = Limits { max_bytes: 1 << 16, cancel: None, custom: None };
            if op
                .evaluate(&inputs, op.arity().min_outputs, &limits)
                .is_ok_and(|results| !results[0].is_empty())
            {
                evaluated.insert(name);
            }
        }
    }
    assert!(evaluated.len() >= 6, "only {evaluated:?} ever succeed");
}
