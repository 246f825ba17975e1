//! Shared bytes: owned and aligned, or a range of a mapped file.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::TensorError;

/// Alignment, in bytes, of every owned buffer: a cache line, and the widest vector.
pub const ALIGN: usize = 64;

#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

#[derive(Clone)]
enum Storage {
    Owned(Arc<Vec<Line>>),
    Mapped(Arc<MappedFile>),
}

/// A range of shared bytes. Cloning shares them; they are never changed while shared.
#[derive(Clone)]
pub struct Buffer {
    storage: Storage,
    offset: usize,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes, aligned to [`ALIGN`].
    pub fn zeroed(len: usize) -> Self {
        let lines = bytemuck::zeroed_vec(len.div_ceil(ALIGN));
        Self { storage: Storage::Owned(Arc::new(lines)), offset: 0, len }
    }

    /// An aligned copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.make_mut().copy_from_slice(bytes);
        buffer
    }

    /// The bytes `offset..offset + len` of a mapped file.
    pub fn mapped(file: &Arc<MappedFile>, offset: usize, len: usize) -> Result<Self, TensorError> {
        match offset.checked_add(len) {
            Some(end) if end <= file.len() => {
                Ok(Self { storage: Storage::Mapped(file.clone()), offset, len })
            }
            _ => Err(TensorError::OutsideFile {
                path: file.path().to_path_buf(),
                offset: offset as u64,
                length: len as u64,
                size: file.len() as u64,
            }),
        }
    }

    /// The bytes `offset..offset + len` of this buffer, shared; `None` where they lie outside it.
    pub fn slice(&self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| Self { storage: self.storage.clone(), offset: self.offset + offset, len })
    }

    /// The bytes, for writing, aligned to [`ALIGN`]; copied first where they are shared, mapped or not aligned.
    pub fn make_mut(&mut self) -> &mut [u8] {
        let unique = match &mut self.storage {
            Storage::Owned(lines) => self.offset.is_multiple_of(ALIGN) && Arc::get_mut(lines).is_some(),
            Storage::Mapped(_) => false,
        };
        if !unique {
            let mut lines: Vec<Line> = bytemuck::zeroed_vec(self.len.div_ceil(ALIGN));
            bytemuck::cast_slice_mut::<Line, u8>(&mut lines)[..self.len].copy_from_slice(self);
            *self = Self { storage: Storage::Owned(Arc::new(lines)), offset: 0, len: self.len };
        }
        match &mut self.storage {
            Storage::Owned(lines) => {
                let lines = Arc::get_mut(lines).expect("made unique above");
                &mut bytemuck::cast_slice_mut::<Line, u8>(lines)[self.offset..self.offset + self.len]
            }
            Storage::Mapped(_) => unreachable!("mapped bytes were copied above"),
        }
    }

    /// Whether nobody else shares the bytes, so that writing them copies nothing.
    pub fn is_unique(&mut self) -> bool {
        match &mut self.storage {
            Storage::Owned(lines) => Arc::get_mut(lines).is_some(),
            Storage::Mapped(_) => false,
        }
    }

    /// Gives the memory of mapped bytes back to the system: whoever reads them again reads the file again. Owned bytes stay.
    pub fn release(&self) {
        if let Storage::Mapped(file) = &self.storage {
            file.release(self.offset, self.len);
        }
    }

    /// The hash of the bytes that `compute` works out, once for each range of a mapped file: a model's weights are named by it in more
    /// than one place, and reading them all takes time.
    pub fn hash_once(&self, compute: impl FnOnce(&[u8]) -> u64) -> u64 {
        let Storage::Mapped(file) = &self.storage else { return compute(self) };
        let key = (self.offset, self.len);
        if let Some(hash) = file.hashes.lock().ok().and_then(|hashes| hashes.get(&key).copied()) {
            return hash;
        }
        let hash = compute(self);
        if let Ok(mut hashes) = file.hashes.lock() {
            hashes.insert(key, hash);
        }
        hash
    }

    /// Whether the bytes belong to a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.storage, Storage::Mapped(_))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.storage {
            Storage::Owned(lines) => bytemuck::cast_slice(lines),
            Storage::Mapped(file) => file,
        };
        &all[self.offset..self.offset + self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes{})", self.len, if self.is_mapped() { ", mapped" } else { "" })
    }
}

/// A file mapped for reading, or read whole where it is small.
///
/// A mapped file that is truncated while in use raises SIGBUS on access: see `lathe-runtime` for how the
/// binaries turn that into an error.
pub struct MappedFile {
    path: PathBuf,
    contents: Contents,
    /// Hashes of ranges, by their offset and length.
    hashes: Mutex<HashMap<(usize, usize), u64>>,
}

enum Contents {
    Map(memmap2::Mmap),
    Copy(Vec<u8>),
}

impl MappedFile {
    /// Files up to this size are copied: cheap, and safe from changes behind our back.
    pub const COPY_LIMIT: u64 = 64 << 20;

    /// Opens `path`; maps it when it is larger than [`Self::COPY_LIMIT`], else reads it.
    pub fn open(path: &Path) -> Result<Self, TensorError> {
        let io = |source| TensorError::Io { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(io)?;
        Self::from_file(file, path)
    }

    /// The same for a file that is open already; `path` is for messages.
    pub fn from_file(mut file: File, path: &Path) -> Result<Self, TensorError> {
        use std::io::Read;
        let io = |source| TensorError::Io { path: path.to_path_buf(), source };
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(io(std::io::Error::other("not a regular file")));
        }
        let contents = if metadata.len() <= Self::COPY_LIMIT {
            let mut bytes = Vec::with_capacity(metadata.len() as usize);
            file.by_ref().take(Self::COPY_LIMIT).read_to_end(&mut bytes).map_err(io)?;
            Contents::Copy(bytes)
        } else {
            // SAFETY: the map is private and read-only. Another process may still change or truncate the
            // file: no Rust value depends on the bytes staying equal (they are only ever plain numbers,
            // checked after reading), and truncation is reported through the SIGBUS handler of the binaries.
            Contents::Map(unsafe { memmap2::Mmap::map(&file) }.map_err(io)?)
        };
        Ok(Self { path: path.to_path_buf(), contents, hashes: Mutex::default() })
    }

    /// Gives the pages of a range back to the system, where the file is mapped.
    fn release(&self, offset: usize, len: usize) {
        #[cfg(unix)]
        if let Contents::Map(map) = &self.contents {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is of a file and is never written, so that a page that was dropped has the same bytes when it is
            // read again (or other ones where the file changed, which `from_file` allows for).
            let advised = unsafe { map.unchecked_advise_range(advice, offset, len) };
            // The bytes stay readable either way; only memory is at stake.
            let _ = advised;
        }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.contents {
            Contents::Map(map) => map,
            Contents::Copy(bytes) => bytes,
        }
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({}, {} bytes)", self.path.display(), self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn slices_share_and_writes_copy() {
        let mut whole = Buffer::copy_of(&[1, 2, 3, 4]);
        let mut part = whole.slice(1, 2).expect("inside");
        assert_eq!(&*part, [2, 3]);
        part.make_mut()[0] = 9;
        assert_eq!((&*whole, &*part), (&[1, 2, 3, 4][..], &[9, 3][..]));
        let before = whole.as_ptr();
        whole.make_mut()[0] = 7;
        assert_eq!(whole.as_ptr(), before, "the only owner writes in place");
        assert!(whole.slice(2, 3).is_none() && whole.slice(usize::MAX, 2).is_none());
    }

    #[test]
    fn written_bytes_are_aligned() {
        let mut part = Buffer::zeroed(256).slice(3, 200).expect("inside");
        assert_eq!(part.make_mut().as_ptr() as usize % ALIGN, 0);
        assert_eq!(Buffer::zeroed(1).as_ptr() as usize % ALIGN, 0);
        assert!(Buffer::zeroed(0).is_empty());
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn small_files_are_copied_and_ranges_checked() {
        let file = file(&[1, 2, 3, 4]);
        let mapped = Arc::new(MappedFile::open(file.path()).expect("readable"));
        let mut buffer = Buffer::mapped(&mapped, 1, 3).expect("inside");
        assert!(buffer.is_mapped());
        assert_eq!(&*buffer, [2, 3, 4]);
        buffer.make_mut()[0] = 9;
        assert!(!buffer.is_mapped());
        assert_eq!((&**mapped, &*buffer), (&[1, 2, 3, 4][..], &[9, 3, 4][..]));
        for (offset, len) in [(2, 3), (5, 0), (usize::MAX, 2)] {
            let error = Buffer::mapped(&mapped, offset, len).expect_err("outside").to_string();
            assert!(error.contains("of 4 bytes"), "{error}");
        }
    }

    #[test]
    fn large_files_are_mapped() {
        let file = file(&[7]);
        file.as_file().set_len(MappedFile::COPY_LIMIT + 1).expect("a sparse file");
        let mapped = MappedFile::open(file.path()).expect("readable");
        assert!(matches!(mapped.contents, Contents::Map(_)));
        assert_eq!((mapped[0], mapped[1], mapped.len() as u64), (7, 0, MappedFile::COPY_LIMIT + 1));
        let buffer = Buffer::mapped(&Arc::new(mapped), 0, 2).expect("inside");
        buffer.release();
        assert_eq!(*buffer, [7, 0], "released bytes are read again");
        assert_eq!(buffer.hash_once(|bytes| bytes[0].into()), 7);
        assert_eq!(buffer.clone().hash_once(|_| 8), 7, "worked out once");
        assert_eq!(buffer.slice(0, 1).expect("inside").hash_once(|_| 8), 8, "another range");
        assert_eq!(Buffer::zeroed(2).hash_once(|_| 8), 8);
    }

    #[test]
    fn folders_and_missing_files_are_errors_that_name_the_path() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for path in [folder.path().to_path_buf(), folder.path().join("missing")] {
            let error = MappedFile::open(&path).expect_err("no file").to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
