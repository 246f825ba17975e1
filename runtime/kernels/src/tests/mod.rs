//! Every builtin against a plain reference in f64, on every instruction set, with the same bits for 1, 2, 3 and 8 workers.

mod bytes;
mod dynamic;
mod elements;
mod fourier;
mod gather;
mod halves;
mod image;
mod moe;
mod norm;
mod pool;
mod position;
mod products;
mod recurrent;
mod recurrent_bytes;
mod reduce;
mod resize;
mod resize_axis;
mod scan;
mod shape;
mod simd;
mod softmax;
mod table;

use proptest::test_runner::Config;

/// Few cases a property: each runs on every instruction set with four numbers of workers.
fn few() -> Config {
    Config { failure_persistence: None, ..Config::with_cases(48) }
}

/// An axis that is short, about as long as a few vectors, or long.
fn axis() -> impl proptest::strategy::Strategy<Value = usize> {
    proptest::prop_oneof![0_usize..5, 1_usize..70, proptest::strategy::Just(300_usize)]
}
