//! Frequencies of the scalings against numbers of their papers.

use super::llama;
use crate::model::Config;
use crate::model::blocks::rope::{Rope, RopeConfig, Scaling};

fn rope(changes: &str, head_dim: usize) -> Rope {
    let config = Config::parse(llama(changes).as_bytes()).expect("a configuration");
    RopeConfig::of(&config, None, 4096).and_then(|rope| rope.rope(head_dim)).expect("a rotation")
}

fn frequencies(rope: &Rope) -> &[f64] {
    match &rope.scaling {
        Scaling::Fixed { frequencies, .. } => frequencies,
        other => panic!("frequencies that follow from the length: {other:?}"),
    }
}

#[test]
fn both_spellings_mean_the_same() {
    let old =
        rope(r#"{"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}, "head_dim": 8}"#, 8);
    let new = rope(
        r#"{"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}, "head_dim": 8}"#,
        8,
    );
    assert_eq!(old, new);
    assert_eq!(old.theta, 5e5);
    assert_eq!(frequencies(&old)[0], 0.25);
}

#[test]
fn ntk_changes_the_base() {
    let scaled = rope(r#"{"rope_scaling": {"type": "ntk", "factor": 8.0}}"#, 128);
    let theta = 1.0 / frequencies(&scaled)[1].powf(64.0);
    assert!((theta - 82684.6).abs() < 0.1, "{theta}");
    let plain = rope(&format!(r#"{{"rope_theta": {theta}}}"#), 128);
    for (a, b) in frequencies(&scaled).iter().zip(frequencies(&plain)) {
        assert!((a - b).abs() < 1e-12);
    }
}

#[test]
fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
    let scaling =
        r#"{"rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}}"#;
    let scaled = rope(scaling, 128);
    let plain = rope("{}", 128);
    assert!((scaled.attention_factor - 1.2079).abs() < 1e-4);
    assert_eq!(frequencies(&scaled)[0], frequencies(&plain)[0]);
    assert!((frequencies(&scaled)[63] - frequencies(&plain)[63] / 8.0).abs() < 1e-15);
}

#[test]
fn a_part_of_a_head_is_rotated() {
    assert_eq!(rope(r#"{"rotary_pct": 0.25}"#, 32).dims, 8);
    assert_eq!(
        rope(r#"{"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 1e4}}"#, 32).dims,
        16
    );
}
