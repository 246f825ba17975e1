//! External data: constants in files beside the model.
//!
//! A model may name only regular files beneath its own directory, or beneath the directory that the model file
//! really lies in: hub caches link `snapshots/x/model.onnx` and its data into `blobs/`. The name is resolved first, links
//! included; what it resolves to must lie beneath one of the two directories, and is then opened relative to that
//! directory without following links again, so that a link changed meanwhile cannot lead outside.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use lathe_proto::onnx::TensorProto;
use lathe_tensor::{Buffer, MappedFile};
use rustc_hash::FxHashMap;

use crate::error::{Fault, quote};
use crate::onnx::tensor::Budget;

/// The longest location that is looked at.
const LONGEST_LOCATION: usize = 4096;

/// Files that a model's tensors lie in, opened when first named.
#[derive(Debug)]
pub(crate) struct ExternalFiles {
    /// The directory that the model was named in.
    directory: PathBuf,
    /// Real directories that files may lie beneath.
    roots: Vec<PathBuf>,
    open: FxHashMap<String, Arc<MappedFile>>,
}

impl ExternalFiles {
    /// Files that `model` may refer to.
    pub(crate) fn beside(model: &Path) -> Self {
        let directory = match model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let named = directory.canonicalize().ok();
        let real = model.canonicalize().ok().and_then(|model| model.parent().map(Path::to_path_buf));
        let mut roots: Vec<PathBuf> = named.into_iter().chain(real).collect();
        roots.dedup();
        Self { directory, roots, open: FxHashMap::default() }
    }

    /// The `expected` bytes of a tensor whose `external_data` names a file.
    pub(crate) fn bytes(
        &mut self,
        tensor: &TensorProto,
        expected: usize,
        budget: &mut Budget,
    ) -> Result<Buffer, Fault> {
        let entry = |key: &str| {
            tensor.external_data.iter().rev().find(|entry| entry.key() == key).map(|entry| entry.value())
        };
        let number = |key: &str| -> Result<Option<u64>, Fault> {
            let Some(text) = entry(key) else { return Ok(None) };
            let wrong =
                || Fault::bad(format!("the {key} {} of its external data is not a size", quote(text)));
            text.trim().parse().map(Some).map_err(|_| wrong())
        };
        let location = entry("location").ok_or_else(|| Fault::bad("its external data has no location"))?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(expected as u64);
        if length != expected as u64 {
            let reason = format!("its external data has {length} bytes, dtype and dims take {expected}");
            return Err(Fault::bad(reason));
        }
        let file = self.file(location, budget)?;
        let outside = || {
            let (size, location) = (file.len(), quote(location));
            Fault::bad(format!("bytes {offset}..+{length} lie outside {location}, which has {size}"))
        };
        let offset = usize::try_from(offset).map_err(|_| outside())?;
        Buffer::mapped(&file, offset, expected).map_err(|_| outside())
    }

    /// The file of this name, opened when first asked for.
    pub(crate) fn file(&mut self, location: &str, budget: &mut Budget) -> Result<Arc<MappedFile>, Fault> {
        if let Some(file) = self.open.get(location) {
            return Ok(file.clone());
        }
        check_location(location)?;
        let cannot =
            |error: io::Error| Fault::bad(format!("cannot open external data {}: {error}", quote(location)));
        let target = self.directory.join(location).canonicalize().map_err(cannot)?;
        let (root, beneath) = self
            .roots
            .iter()
            .find_map(|root| target.strip_prefix(root).ok().map(|beneath| (root, beneath)))
            .ok_or_else(|| {
                let reason = "leads outside the model's directory: copy the file beside the model";
                Fault::bad(format!("external data {} {reason}", quote(location)))
            })?;
        if !target.metadata().map_err(cannot)?.is_file() {
            return Err(Fault::bad(format!("external data {} is not a regular file", quote(location))));
        }
        let file = open_beneath(root, beneath).map_err(cannot)?;
        let size = file.metadata().map_err(cannot)?.len();
        if size <= MappedFile::COPY_LIMIT {
            budget.take(size)?;
        }
        let file = Arc::new(MappedFile::from_file(file, &target)?);
        self.open.insert(location.to_string(), file.clone());
        Ok(file)
    }
}

/// Refuses locations that are not plain relative paths, before the file system sees them.
fn check_location(location: &str) -> Result<(), Fault> {
    let refuse = |what: &str| Err(Fault::bad(format!("external data location {} {what}", quote(location))));
    if location.is_empty() {
        return refuse("is empty");
    }
    if location.len() > LONGEST_LOCATION {
        return refuse("is too long");
    }
    if location.contains(['\0', '\\']) {
        return refuse("has a NUL or a backslash");
    }
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(location).components().all(plain) {
        return refuse("is absolute or has `..`: files lie beneath the model's directory");
    }
    Ok(())
}

/// Opens a path without links beneath `root`. Not blocking: what became a pipe since the check does not hang us.
#[cfg(target_os = "linux")]
fn open_beneath(root: &Path, beneath: &Path) -> io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let directory = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(&directory, beneath, flags, Mode::empty(), resolve) {
        // Kernels before 5.6 and some sandboxes have no openat2: the path was resolved and checked above.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            let path = root.join(beneath);
            Ok(rustix::fs::openat(CWD, &path, flags | OFlags::NOFOLLOW, Mode::empty())?.into())
        }
        opened => Ok(opened?.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(root: &Path, beneath: &Path) -> io::Result<File> {
    File::open(root.join(beneath))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use lathe_proto::onnx::StringStringEntryProto;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn tensor(entries: &[(&str, &str)]) -> TensorProto {
        let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
            key: Some(key.to_string()),
            value: Some(value.to_string()),
        };
        TensorProto { external_data: entries.iter().map(entry).collect(), ..Default::default() }
    }

    fn read(model: &Path, entries: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        let mut budget = Budget::new(1 << 20);
        let bytes = ExternalFiles::beside(model).bytes(&tensor(entries), 4, &mut budget);
        bytes.map(|bytes| bytes.to_vec()).map_err(|fault| fault.reason)
    }

    /// `dir/model/model.onnx`, `dir/model/sub/w.bin`, `dir/secret.bin`.
    fn layout() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let model = dir.path().join("model");
        fs::create_dir_all(model.join("sub")).expect("directory");
        fs::write(model.join("model.onnx"), b"").expect("model");
        fs::write(model.join("sub/w.bin"), b"abcdefgh").expect("weights");
        fs::write(dir.path().join("secret.bin"), b"secret!!").expect("secret");
        (dir, model.join("model.onnx"))
    }

    #[test]
    fn ranges_are_checked() {
        let (_dir, model) = layout();
        let at = |offset| read(&model, &[("location", "sub/w.bin"), ("offset", offset)]);
        assert_eq!(at("0").as_deref(), Ok(&b"abcd"[..]));
        assert_eq!(at("1").as_deref(), Ok(&b"bcde"[..]));
        for wrong in ["5", "18446744073709551615", "36893488147419103232", "-1", "4.5", "x", ""] {
            assert!(at(wrong).is_err(), "offset {wrong}");
        }
        assert!(read(&model, &[("location", "sub/w.bin"), ("length", "8")]).is_err());
        assert!(read(&model, &[]).is_err());
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        let (dir, model) = layout();
        symlink("../secret.bin", dir.path().join("model/link.bin")).expect("link");
        symlink("/dev/zero", dir.path().join("model/zero.bin")).expect("link");
        symlink("loop.bin", dir.path().join("model/loop.bin")).expect("link");
        symlink("link.bin", dir.path().join("model/hop.bin")).expect("link");
        let absolute = dir.path().join("model/sub/w.bin");
        let long = "x".repeat(65536);
        let locations = [
            "../secret.bin",
            "sub/../../secret.bin",
            "link.bin",
            "hop.bin",
            "zero.bin",
            "loop.bin",
            "sub",
            "missing",
            "",
            "..\\secret.bin",
            "/proc/self/environ",
            "a\0b",
            &long,
            absolute.to_str().expect("UTF-8"),
        ];
        for location in locations {
            let result = read(&model, &[("location", location)]);
            assert!(result.is_err(), "{location:.80}: {result:?}");
        }
    }

    #[test]
    fn links_inside_and_hard_links_work() {
        let (dir, model) = layout();
        symlink("sub/w.bin", dir.path().join("model/inside.bin")).expect("link");
        fs::hard_link(dir.path().join("secret.bin"), dir.path().join("model/hard.bin")).expect("hard link");
        assert_eq!(read(&model, &[("location", "inside.bin")]).as_deref(), Ok(&b"abcd"[..]));
        assert_eq!(read(&model, &[("location", "hard.bin")]).as_deref(), Ok(&b"secr"[..]));
    }

    #[test]
    fn hub_caches_link_into_blobs() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshots/main"));
        fs::create_dir_all(&blobs).expect("blobs");
        fs::create_dir_all(&snapshot).expect("snapshot");
        fs::write(blobs.join("aaaa"), b"").expect("model");
        fs::write(blobs.join("bbbb"), b"weights!").expect("weights");
        symlink("../../blobs/aaaa", snapshot.join("model.onnx")).expect("link");
        symlink("../../blobs/bbbb", snapshot.join("model.onnx_data")).expect("link");
        let bytes = read(&snapshot.join("model.onnx"), &[("location", "model.onnx_data")]);
        assert_eq!(bytes.as_deref(), Ok(&b"weig"[..]));
    }

    #[test]
    fn of_a_huge_file_only_the_tensor_is_read() {
        let (dir, model) = layout();
        let file = fs::File::create(dir.path().join("model/huge.bin")).expect("a file");
        if file.set_len(16 << 30).is_err() {
            eprintln!("skipped: no sparse files of 16 GiB here");
            return;
        }
        let last = (16u64 << 30) - 4;
        let bytes = read(&model, &[("location", "huge.bin"), ("offset", &last.to_string())]);
        assert_eq!(bytes.as_deref(), Ok(&[0; 4][..]));
        let beyond = (last + 1).to_string();
        assert!(read(&model, &[("location", "huge.bin"), ("offset", &beyond)]).is_err());
    }

    #[test]
    fn pipes_do_not_block() {
        let (dir, model) = layout();
        let pipe = dir.path().join("model/pipe.bin");
        let made =
            std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success());
        if !made {
            eprintln!("skipped: no mkfifo here");
            return;
        }
        let error = read(&model, &[("location", "pipe.bin")]).expect_err("a pipe");
        assert!(error.contains("regular file"), "{error}");
    }
}
