//! GGUF files: hand-made ones, broken ones, and the rows of the shared hostile set where it is there.

use std::io::Write;
use std::path::{Path, PathBuf};

use lathe_import::gguf::{GgufFile, GgufTokenizer, check_facts};
use lathe_tensor::{BlockFormat, DType, Encoding};

/// A file under construction.
#[derive(Clone, Default)]
struct Builder {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Builder {
    fn pair(mut self, key: &str, code: u32, value: &[u8]) -> Self {
        self.pairs.push([&text(key)[..], &code.to_le_bytes(), value].concat());
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], code: u32, data: &[u8]) -> Self {
        let offset = self.data.len() as u64;
        let mut info = [&text(name)[..], &(dims.len() as u32).to_le_bytes()].concat();
        dims.iter().for_each(|dim| info.extend(dim.to_le_bytes()));
        info.extend(code.to_le_bytes());
        info.extend(offset.to_le_bytes());
        self.tensors.push(info);
        self.data.extend(data);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        self.pairs.iter().chain(&self.tensors).for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

fn small() -> Builder {
    Builder::default()
        .pair("general.architecture", 8, &text("llama"))
        .pair("llama.block_count", 4, &2u32.to_le_bytes())
        .tensor("a", &[3, 2], 0, &[0; 24])
        .tensor("b", &[32, 2], 3, &[1; 40])
}

fn open(bytes: &[u8]) -> Result<GgufFile, String> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("written");
    GgufFile::open(file.path()).map_err(|error| error.to_string())
}

#[test]
fn metadata_and_tensors_are_read() {
    let file = open(&small().bytes()).expect("a good file");
    assert_eq!(file.text("general.architecture").unwrap(), Some("llama"));
    assert_eq!(file.count("llama.block_count").unwrap(), Some(2));
    assert!(file.text("llama.block_count").unwrap_err().to_string().contains("an unsigned integer"));
    let [a, b] = file.tensors() else { panic!("two tensors") };
    assert_eq!((&a.shape[..], a.dtype, a.encoding), (&[2, 3][..], DType::F32, Encoding::Dense));
    assert_eq!((&b.shape[..], b.encoding), (&[2, 32][..], Encoding::Blocked(BlockFormat::Q4_1)));
    assert_eq!(&file.data(b).unwrap()[..], [1; 40]);
    assert!(check_facts(&file).is_ok() && GgufTokenizer::read(&file).unwrap().is_none());
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small().bytes();
    // The last 24 bytes only fill the last tensor's line.
    for length in 0..bytes.len() - 24 {
        assert!(open(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn impossible_files_are_refused_with_a_reason() {
    let one = |dims: &[u64], code| Builder::default().tensor("t", dims, code, &[0; 64]);
    let cases = [
        (Builder::default().pair("", 4, &[0; 4]), "0 bytes"),
        (Builder::default().pair("k", 7, &[7]), "0 or 1"),
        (Builder::default().pair("k", 99, &[0; 8]), "no type"),
        (small().pair("llama.block_count", 4, &[0; 4]), "twice"),
        (Builder::default().pair("general.alignment", 4, &24u32.to_le_bytes()), "power of two"),
        (
            Builder::default().pair("k", 9, &[&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()),
            "arrays of arrays",
        ),
        (
            Builder::default().pair("k", 9, &[&8u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat()),
            "do not fit",
        ),
        (one(&[u64::MAX, 2], 0), "impossible"),
        (one(&[1 << 40, 1 << 40], 0), "impossible"),
        (one(&[16], 3), "whole blocks"),
        (one(&[1 << 20], 0), "outside the file"),
        (one(&[1; 5], 0), "at most 4"),
        (one(&[4], 9999), "tensor type 9999"),
        (one(&[4], 0).tensor("t", &[4], 0, &[0; 16]), "two tensors"),
    ];
    for (file, reason) in cases {
        let error = open(&file.bytes()).expect_err(reason);
        assert!(error.contains(reason), "{error} does not say {reason}");
    }
}

#[test]
fn facts_and_tokenizers_are_checked() {
    let heads = |heads: u32, kv: u32| {
        small()
            .pair("llama.embedding_length", 4, &32u32.to_le_bytes())
            .pair("llama.attention.head_count", 4, &heads.to_le_bytes())
            .pair("llama.attention.head_count_kv", 4, &kv.to_le_bytes())
    };
    let check =
        |file: Builder| check_facts(&open(&file.bytes()).expect("a container")).map_err(|e| e.to_string());
    assert_eq!(check(heads(4, 2)), Ok(()));
    assert!(check(heads(5, 1)).unwrap_err().contains("no multiple of 5"));
    assert!(check(heads(4, 3)).unwrap_err().contains("no multiple of 3"));
    assert!(check(heads(0, 1)).unwrap_err().contains("head_count"));
    let texts = |items: &[&str]| {
        let mut out = [&8u32.to_le_bytes()[..], &(items.len() as u64).to_le_bytes()].concat();
        items.iter().for_each(|item| out.extend(text(item)));
        out
    };
    let tokenizer = |merge: &str, bos: u32| {
        small()
            .pair("tokenizer.ggml.model", 8, &text("gpt2"))
            .pair("tokenizer.ggml.tokens", 9, &texts(&["a", "b", "ab"]))
            .pair("tokenizer.ggml.merges", 9, &texts(&[merge]))
            .pair("tokenizer.ggml.bos_token_id", 4, &bos.to_le_bytes())
    };
    assert_eq!(check(tokenizer("a b", 2)), Ok(()));
    assert!(check(tokenizer("ab", 2)).unwrap_err().contains("merge"));
    assert!(check(tokenizer("a b", 3)).unwrap_err().contains("bos"));
    let file = open(&tokenizer("a b", 2).bytes()).expect("a container");
    let read = GgufTokenizer::read(&file).expect("good").expect("there");
    assert_eq!((read.tokens.len(), read.bos), (3, Some(2)));
    assert_eq!((read.tokens.get(1), read.tokens.get(2), read.tokens.get(3)), (Some("b"), Some("ab"), None));
    assert_eq!(read.merges.iter().collect::<Vec<_>>(), ["a b"]);
}

/// The folder of hostile files, where the environment names it.
fn hostile() -> Option<PathBuf> {
    let shared = std::env::var_os("LATHE_SHARED")?;
    Some(Path::new(&shared).join("data/hostile")).filter(|folder| folder.is_dir())
}

#[test]
fn hostile_files_are_errors() {
    let Some(folder) = hostile() else {
        eprintln!("LEFT OUT: LATHE_SHARED names no folder with data/hostile");
        return;
    };
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let rows = manifest.as_array().expect("rows").iter().filter(|row| row["kind"] == "gguf");
    let mut seen = 0;
    for row in rows {
        let (file, what) = (row["file"].as_str().expect("a name"), row["what"].as_str().unwrap_or_default());
        let result = GgufFile::open(&folder.join(file)).and_then(|file| check_facts(&file));
        // A template is broken only when it is rendered.
        if row["expected"] == "clear error" && !what.contains("chat_template") {
            assert!(result.is_err(), "{file}: {what}");
        }
        if row["expected"] == "runs ok" {
            assert!(result.is_ok(), "{file}: {what}: {result:?}");
        }
        seen += 1;
    }
    assert!(seen > 50, "{seen} rows");
}
