//! No bytes make the importer panic.

use lathe_proto::onnx::{GraphProto, ModelProto};
use proptest::prelude::*;
use prost::Message;

use super::build::*;
use crate::ImportOptions;

/// A model with something of everything: constants, a function, a branch, shape arithmetic.
fn seed() -> ModelProto {
    let branch = |operator: &str, name: &str| GraphProto {
        node: vec![node(operator, &["h"], &[name])],
        output: vec![output(name)],
        ..Default::default()
    };
    let bodies = [body("then_branch", branch("Relu", "a")), body("else_branch", branch("Neg", "b"))];
    let nodes = vec![
        node("Shape", &["x"], &["shape"]),
        node("Reshape", &["x", "shape"], &["r"]),
        with(node("Transpose", &["r"], &["t"]), [ints("perm", &[1, 0])]),
        node("Slice", &["t", "from", "to"], &["s"]),
        call("Twice", &["s"], &["h"]),
        node("IsNaN", &["scalar"], &["c"]),
        with(node("If", &["c"], &["y"]), bodies),
    ];
    let twice = function("Twice", &["p"], vec![node("Add", &["p", "p"], &["q"])], &["q"]);
    let mut model = ModelProto {
        functions: vec![twice],
        ..model(17, &[("x", "batch,3"), ("scalar", "")], nodes, &["y"])
    };
    let graph = model.graph.get_or_insert_with(GraphProto::default);
    graph.initializer.extend([constant("from", &[1], &[0]), constant("to", &[1], &[2])]);
    model
}

#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Cut(usize, usize),
    Copy(usize, usize, usize),
    Truncate(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let place = || 0usize..4096;
    let change = prop_oneof![
        6 => (place(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (place(), 1usize..16).prop_map(|(at, len)| Change::Cut(at, len)),
        1 => (place(), place(), 1usize..64).prop_map(|(from, to, len)| Change::Copy(from, to, len)),
        1 => place().prop_map(Change::Truncate),
    ];
    proptest::collection::vec(change, 1..6)
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let len = bytes.len().max(1);
    match *change {
        Change::Set(at, byte) => {
            if let Some(place) = bytes.get_mut(at % len) {
                *place = byte;
            }
        }
        Change::Cut(at, count) => {
            let at = (at % len).min(bytes.len());
            let end = (at + count).min(bytes.len());
            bytes.drain(at..end);
        }
        Change::Copy(from, to, count) => {
            let from = (from % len).min(bytes.len());
            let piece = bytes[from..(from + count).min(bytes.len())].to_vec();
            let to = (to % len).min(bytes.len());
            bytes.splice(to..to, piece);
        }
        Change::Truncate(at) => bytes.truncate(at % len),
    }
}

#[test]
fn the_seed_itself_imports() {
    import(&seed()).expect("valid");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn mutated_models_never_panic(changes in changes()) {
        let mut bytes = seed().encode_to_vec();
        changes.iter().for_each(|change| apply(&mut bytes, change));
        let options = ImportOptions { max_memory: 64 << 20, ..Default::default() };
        if let Err(error) = import_bytes(&bytes, &options) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
