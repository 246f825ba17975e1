//! The file as written, read, damaged and forged.

use lathe_tensor::TensorError;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::SealKeys;
use crate::code::{Arch, CodeFunction, Feature, TargetSpec};
use crate::key::UserKey;
use crate::plan::{DimExpr, DimId, Plan, Port, Slot, SlotId, SlotKind, TensorRef, View};

fn plan() -> Plan {
    let tensor = TensorRef {
        view: View { slot: SlotId(0), offset: None },
        dtype: DType::F32,
        dims: vec![DimId(0), DimId(1)],
    };
    let port = Port { name: "x".into(), tensor, dims_text: vec!["batch".into(), "3".into()] };
    Plan {
        name: "main".into(),
        dims: vec![DimExpr::Symbol(0), DimExpr::Const(3), DimExpr::Mul(DimId(0), DimId(1))],
        dim_stages: vec![0; 3],
        symbols: Vec::new(),
        stages: 1,
        guards: Vec::new(),
        inputs: vec![port.clone()],
        outputs: vec![Port { name: "y".into(), ..port }],
        slots: vec![Slot { kind: SlotKind::Input(0), dtype: DType::F32, bytes: DimId(2), stage: 0 }],
        steps: Vec::new(),
        phases: 1,
        views: Vec::new(),
        states: Vec::new(),
        regimes: Vec::new(),
        routings: Vec::new(),
        composites: Default::default(),
    }
}

fn code() -> Code {
    let function = CodeFunction { name: "entry".into(), offset: 0, len: 70 };
    Code {
        target: TargetSpec { arch: Arch::X86_64, features: vec![Feature::Sse42] },
        entry: 0,
        shapes: vec![0],
        functions: vec![function],
        bytes: (0..70).collect(),
    }
}

fn artifact() -> Result<Artifact, TensorError> {
    let weights = [
        ("dense", Tensor::from_slice(&[1.5f32, -2.0, 3.0], &[3, 1])?),
        ("packed", Tensor::from_slice(&[7u8; 129], &[129])?),
        ("__seal", Tensor::scalar(9i64)),
        ("weight:odd", Tensor::scalar(8i64)),
        ("empty", Tensor::zeros(DType::F64, &[0, 4])?),
        ("nibbles", Tensor::new(DType::I4, vec![3], Buffer::copy_of(&[0x21, 0x03]))?),
        ("names", Tensor::from_strings(vec![b"ab".to_vec(), Vec::new()], &[2])?),
    ];
    Ok(Artifact {
        functions: vec![PlannedFunction { plan: plan(), code: vec![code()] }],
        weights: weights.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect(),
        ir_text: "module {}".into(),
        build_id: "test 1".into(),
        report: json!({ "ops": 3 }),
    })
}

struct Written {
    folder: tempfile::TempDir,
    keys: SealKeys,
}

impl Written {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = UserKey::load_or_create_at(&folder.path().join("key")).unwrap();
        let keys = SealKeys { user, sign: Some([5; 32]) };
        let written = Self { folder, keys };
        artifact().unwrap().write(&written.path(), &written.keys).unwrap();
        written
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.lathe")
    }

    fn trust(&self) -> Trust {
        Trust::Key(self.keys.user.clone())
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    fn open(&self) -> Result<Opened, ArtifactError> {
        open(&self.path(), &self.trust(), LoadMode::Map)
    }

    fn open_bytes(&self, bytes: &[u8]) -> Result<Opened, ArtifactError> {
        let path = self.folder.path().join("changed.lathe");
        std::fs::write(&path, bytes).unwrap();
        open(&path, &self.trust(), LoadMode::Map)
    }
}

#[test]
fn what_is_written_is_read() {
    let written = Written::new();
    let original = artifact().unwrap();
    for mode in [LoadMode::Map, LoadMode::Copy] {
        let opened = open(&written.path(), &written.trust(), mode).unwrap();
        assert_eq!(opened.seal, SealStatus::Trusted);
        opened.check().unwrap();
        let read = opened.artifact;
        assert_eq!(read.functions[0].plan, original.functions[0].plan);
        assert_eq!(read.functions[0].code, original.functions[0].code);
        assert_eq!(read.ir_text, original.ir_text);
        assert_eq!(read.build_id, original.build_id);
        assert_eq!(read.report, original.report);
        assert_eq!(read.weights.len(), original.weights.len());
        for (name, tensor) in &original.weights {
            let found = &read.weights[name];
            assert_eq!((found.dtype(), found.shape()), (tensor.dtype(), tensor.shape()), "{name}");
            assert_eq!(found.bytes(), tensor.bytes(), "{name}");
            assert_eq!(found.strings().ok(), tensor.strings().ok(), "{name}");
        }
    }
}

#[test]
fn any_safetensors_tool_can_list_it() {
    let written = Written::new();
    let bytes = written.bytes();
    let (header, _) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!((8 + header) % header::ALIGN, 0);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let dense = file.tensor("dense").unwrap();
    assert_eq!((dense.shape(), dense.dtype()), (&[3, 1][..], safetensors::Dtype::F32));
    for (name, view) in file.tensors() {
        let offset = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert!(name.starts_with("__pad") || offset.is_multiple_of(header::ALIGN), "{name} at {offset}");
    }
}

#[test]
fn only_the_right_key_makes_code_trusted() {
    let written = Written::new();
    let status = |trust: &Trust| {
        let opened = open(&written.path(), trust, LoadMode::Map).unwrap();
        let has_code = !opened.artifact.functions[0].code.is_empty();
        assert_eq!(has_code, opened.seal == SealStatus::Trusted);
        assert_eq!(opened.artifact.ir_text, "module {}", "the text is there to compile again");
        has_code
    };
    let other = UserKey::load_or_create_at(&written.folder.path().join("other")).unwrap();
    let public = |seed| *ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key().as_bytes();
    assert!(status(&written.trust()));
    assert!(!status(&Trust::Key(other.clone())));
    assert!(!status(&Trust::Nobody));
    assert!(status(&Trust::PublicKey(public(5))));
    assert!(!status(&Trust::PublicKey(public(6))));
    artifact().unwrap().write(&written.path(), &SealKeys { user: other, sign: None }).unwrap();
    assert!(!status(&Trust::PublicKey(public(5))));
    assert!(!status(&Trust::PublicKey([0; 32])));
}

/// Ranges of the file that the seal does not cover: the payloads of weights.
fn weight_ranges(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let tensors = metadata.tensors();
    let weights = tensors.iter().filter(|(name, _)| !header::is_reserved(name));
    weights.map(|(_, info)| 8 + header + info.data_offsets.0..8 + header + info.data_offsets.1).collect()
}

#[test]
fn every_changed_byte_of_the_sealed_part_is_refused() {
    let written = Written::new();
    let bytes = written.bytes();
    let weights = weight_ranges(&bytes);
    let mut changed = bytes.clone();
    for position in 0..bytes.len() {
        changed[position] ^= 1 << (position % 8);
        let result = written.open_bytes(&changed);
        if weights.iter().any(|range| range.contains(&position)) {
            // Weights are checked on request; only the lengths of strings show at once.
            let message = result.and_then(|opened| opened.check()).unwrap_err().to_string();
            assert!(message.contains("weight `"), "{message}");
        } else {
            let message = result.expect_err(&format!("byte {position}")).to_string();
            assert!(message.contains("changed.lathe"), "{message}");
        }
        changed[position] = bytes[position];
    }
}

#[test]
fn a_forged_checksum_does_not_make_code_trusted() {
    let written = Written::new();
    let forged = UserKey::load_or_create_at(&written.folder.path().join("forger")).unwrap();
    let mut evil = artifact().unwrap();
    evil.functions[0].code[0].bytes[3] ^= 1;
    evil.write(&written.path(), &SealKeys { user: forged, sign: Some([6; 32]) }).unwrap();
    let opened = written.open().unwrap();
    assert!(matches!(opened.seal, SealStatus::Untrusted(_)));
    assert!(opened.artifact.functions[0].code.is_empty());
}

#[test]
fn truncated_and_extended_files_are_refused() {
    let written = Written::new();
    let bytes = written.bytes();
    for length in (0..bytes.len()).step_by(37) {
        assert!(written.open_bytes(&bytes[..length]).is_err(), "{length} bytes");
    }
    assert!(written.open_bytes(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn files_that_are_not_artifacts_are_refused_with_a_reason() {
    let written = Written::new();
    let message = |bytes: &[u8]| written.open_bytes(bytes).unwrap_err().to_string();
    assert!(message(b"").contains("0 bytes"));
    assert!(message(&u64::MAX.to_le_bytes()).contains("a header of"));
    let plain = |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    assert!(message(&plain("{}")).contains("did not write"));
    assert!(message(&plain(r#"{"__metadata__":{"format":"lathe","version":"999"}}"#)).contains("format 999"));
    assert!(message(&plain(r#"{"__metadata__":{"format":"lathe","version":"1"}}"#)).contains("seal"));
    let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    assert!(message(&[plain(overlap), vec![0; 6]].concat()).contains("safetensors"));
    let outside = r#"{"a":{"dtype":"U8","shape":[400],"data_offsets":[0,400]}}"#;
    assert!(message(&plain(outside)).contains("safetensors"));
    assert!(open(written.folder.path(), &Trust::Nobody, LoadMode::Map).is_err(), "a folder");
}

#[test]
fn nothing_half_written_is_left_behind() {
    let written = Written::new();
    let before = written.bytes();
    let failed = crate::write_atomically(&written.path(), |file| {
        std::io::Write::write_all(file, b"half")?;
        Err(std::io::Error::other("disk full"))
    });
    assert!(failed.is_err());
    assert_eq!(written.bytes(), before);
    let names: Vec<_> =
        std::fs::read_dir(written.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_headers_never_panic(header in "[\\PC]{0,200}", tail in prop::collection::vec(any::<u8>(), 0..64)) {
        let written = Written::new();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &tail].concat();
        prop_assert!(written.open_bytes(&bytes).is_err());
    }

    #[test]
    fn random_damage_never_panics(cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let written = Written::new();
        let mut bytes = written.bytes();
        for (index, byte) in cuts {
            let position = index.index(bytes.len());
            bytes[position] = byte;
        }
        if let Ok(opened) = written.open_bytes(&bytes) {
            let _ = opened.check();
        }
    }
}
