//! Counts against the published numbers of well-known models.

use std::path::PathBuf;

use lathe_import::ImportOptions;
use lathe_tensor::DType;

use super::{Requirements, Unit};

fn of(name: &str) -> Requirements {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/configs");
    let path = folder.join(format!("{name}.json"));
    Requirements::of(&path, &ImportOptions::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Within half of the last digit that is given.
fn close(found: f64, wanted: f64, digits: i32) -> bool {
    (found - wanted).abs() <= 0.5001 * 10f64.powi(-digits)
}

/// Name, parameters, active parameters, KiB of cache a token, GFLOP of weights a token.
const DECODERS: &[(&str, u64, u64, f64, f64)] = &[
    ("gpt3-175b", 174_604_259_328, 174_604_259_328, 4608.0, 349.1),
    ("llama-2-70b", 68_976_648_192, 68_976_648_192, 320.0, 137.4),
    ("llama-3-70b", 70_553_706_496, 70_553_706_496, 320.0, 139.0),
    ("llama-3.1-405b", 405_853_388_800, 405_853_388_800, 504.0, 807.5),
    ("mixtral-8x7b", 46_702_792_704, 12_879_925_248, 128.0, 25.5),
    ("mixtral-8x22b", 140_620_634_112, 39_152_031_744, 224.0, 77.9),
    ("mistral-large-2", 122_610_069_504, 122_610_069_504, 352.0, 244.4),
];

#[test]
fn decoders_have_their_published_sizes() {
    for (name, total, active, kib, gflop) in DECODERS {
        let model = of(name);
        assert_eq!(model.unit, Unit::Token, "{name}");
        assert_eq!((model.parameters.total, model.parameters.active), (*total, *active), "{name}");
        assert_eq!(model.cache_bytes_per_token(DType::F16) / 1024.0, *kib, "{name}");
        assert!(close(model.weight_flops as f64 / 1e9, *gflop, 1), "{name}: {}", model.weight_flops);
    }
}

#[test]
fn the_cache_at_a_context_is_counted_with_and_without_shared_heads() {
    let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
    for (name, tokens, grouped, whole) in [
        ("gpt3-175b", 2048, 9.0, 9.0),
        ("llama-2-70b", 131_072, 40.0, 320.0),
        ("llama-3.1-405b", 131_072, 63.0, 1008.0),
        ("mixtral-8x7b", 32_768, 4.0, 16.0),
        ("mixtral-8x22b", 65_536, 14.0, 84.0),
        ("mistral-large-2", 131_072, 44.0, 528.0),
    ] {
        let model = of(name);
        assert_eq!(gib(model.cache_bytes(tokens, DType::F16)), grouped, "{name}");
        assert_eq!(gib(model.cache_bytes_multi_head(tokens, DType::F16)), whole, "{name}");
    }
}

#[test]
fn experts_met_by_a_batch_follow_the_formula() {
    let mixtral = of("mixtral-8x7b");
    let layer = mixtral.experts[0];
    assert_eq!((mixtral.experts.len(), layer.experts, layer.top_k), (32, 8, 2));
    for (batch, expected) in [(1, 2.0), (4, 5.47), (8, 7.20)] {
        assert!(close(layer.expected(batch), expected, 2), "{batch}: {}", layer.expected(batch));
    }
    assert!(close(mixtral.parameters.per_expert as f64 / 1e9, 5.637, 3));
    assert!(close(mixtral.parameters.shared as f64 / 1e9, 1.606, 3));
    assert_eq!(mixtral.step_weight_bytes(1), mixtral.parameters.active as f64 * mixtral.weight_element_bytes);
}

#[test]
fn the_largest_context_is_the_last_that_fits() {
    let model = of("llama-2-70b");
    let limit = model.memory_bytes(1, 50_000, DType::F16, 512);
    assert_eq!(model.largest_context(1, limit, DType::F16, 512), Some(50_000));
    assert_eq!(model.largest_context(1, 1e9, DType::F16, 512), None);
}

#[test]
fn encoders_of_pictures_have_their_published_sizes() {
    for (name, parameters, gflop) in [
        ("vit-b16", 86_567_656, Some(35.1)),
        ("vit-l16", 304_326_632, Some(123.1)),
        ("swin-l", 196_532_476, None),
        ("resnet-152", 60_192_808, None),
    ] {
        let model = of(name);
        assert_eq!((model.unit, model.parameters.total), (Unit::Picture, parameters), "{name}");
        let found = (model.weight_flops + model.other_flops) as f64 / 1e9;
        assert!(gflop.is_none_or(|gflop| close(found, gflop, 1)), "{name}: {found}");
    }
}

#[test]
fn nothing_cached_is_not_minus_nothing() {
    let model = of("vit-b16");
    assert!(model.cache.is_empty() && model.cache_bytes(1024, DType::F16).is_sign_positive());
}
