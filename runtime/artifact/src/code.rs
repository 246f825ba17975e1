//! Generated machine code: one position-independent blob with what is needed to map, check and call it.
//!
//! The blob has no relocation and calls nothing but its own functions and addresses of [`crate::abi::Run::table`]. It may be
//! placed at any address that is a multiple of [`ALIGNMENT`]. A target whose features this machine lacks is refused by
//! [`TargetSpec::missing_here`]; offsets outside the bytes by [`Code::check`].

use serde::{Deserialize, Serialize};

/// Every function starts at a multiple of this many bytes, and so must the blob.
pub const ALIGNMENT: usize = 64;

/// An instruction set architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Arch {
    /// x86, 64 bits.
    #[serde(rename = "x86-64")]
    X86_64,
    /// Arm, 64 bits.
    #[serde(rename = "aarch64")]
    Aarch64,
}

impl Arch {
    /// The name in messages and artifacts.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86-64",
            Arch::Aarch64 => "aarch64",
        }
    }

    /// The architecture that this process runs on; `None` where Lathe generates no code for it.
    pub const fn here() -> Option<Self> {
        if cfg!(all(target_arch = "x86_64", unix)) {
            Some(Arch::X86_64)
        } else if cfg!(all(target_arch = "aarch64", unix)) {
            Some(Arch::Aarch64)
        } else {
            None
        }
    }
}

macro_rules! features {
    ($($(#[doc = $doc:literal])* $variant:ident $name:tt,)*) => {
        /// An x86-64 extension that generated code may use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Feature {
            $($(#[doc = $doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Feature {
            /// Every feature.
            pub const ALL: &'static [Feature] = &[$(Feature::$variant,)*];

            /// The name, as the Rust compiler spells it.
            pub const fn name(self) -> &'static str {
                match self { $(Feature::$variant => $name,)* }
            }

            /// Whether this machine and its operating system have it.
            pub fn is_here(self) -> bool {
                #[cfg(target_arch = "x86_64")]
                return match self { $(Feature::$variant => std::arch::is_x86_feature_detected!($name),)* };
                #[cfg(not(target_arch = "x86_64"))]
                return false;
            }
        }
    };
}

features! {
    /// SSE3.
    Sse3 "sse3",
    /// SSSE3.
    Ssse3 "ssse3",
    /// SSE4.1.
    Sse41 "sse4.1",
    /// SSE4.2.
    Sse42 "sse4.2",
    /// Count of set bits.
    Popcnt "popcnt",
    /// AVX.
    Avx "avx",
    /// AVX2.
    Avx2 "avx2",
    /// Fused multiply-add.
    Fma "fma",
    /// Bit manipulation, first set.
    Bmi1 "bmi1",
    /// Bit manipulation, second set.
    Bmi2 "bmi2",
    /// Count of leading zeros.
    Lzcnt "lzcnt",
    /// AVX-512 foundation.
    Avx512F "avx512f",
    /// AVX-512 doubleword and quadword.
    Avx512Dq "avx512dq",
    /// AVX-512 on 128 and 256 bits.
    Avx512Vl "avx512vl",
}

/// What code was compiled for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TargetSpec {
    /// The architecture.
    pub arch: Arch,
    /// The extensions that the code may use, sorted; empty for aarch64, whose baseline is used.
    pub features: Vec<Feature>,
}

impl TargetSpec {
    /// What this machine lacks to run the code: the architecture or features by name. Empty where it can run.
    pub fn missing_here(&self) -> Vec<&'static str> {
        if Arch::here() != Some(self.arch) {
            return vec![self.arch.name()];
        }
        self.features.iter().filter(|feature| !feature.is_here()).map(|feature| feature.name()).collect()
    }
}

/// A function of the blob, for profiles, disassembly and backtraces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeFunction {
    /// Its name: `entry`, `shape_0`, `chunk_3`, `region_1`.
    pub name: String,
    /// Where it starts, in bytes from the start of the blob.
    pub offset: u32,
    /// Its length in bytes, constants included.
    pub len: u32,
}

/// Machine code of one plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// What it was compiled for.
    pub target: TargetSpec,
    /// Offset of `entry(worker: *const Worker) -> i32`.
    pub entry: u32,
    /// Offset of `shape(dims: *mut i64) -> i32`, one a stage.
    pub shapes: Vec<u32>,
    /// Its functions in order of their offsets.
    pub functions: Vec<CodeFunction>,
    /// The blob. Not part of the serialised description: it is stored beside it.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

/// A description of code that does not fit its bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// A function lies outside the blob, overlaps another or is not aligned.
    #[error("code function `{name}` at {offset} with {len} bytes does not fit a blob of {bytes} bytes")]
    Function {
        /// The function.
        name: String,
        /// Its offset.
        offset: u32,
        /// Its length.
        len: u32,
        /// Length of the blob.
        bytes: usize,
    },
    /// An entry point is not the start of a function.
    #[error("code entry point `{name}` at {offset} is not the start of a function")]
    EntryPoint {
        /// Which: `entry` or `shape_0`.
        name: String,
        /// Its offset.
        offset: u32,
    },
}

impl Code {
    /// Checks that functions are aligned, disjoint and inside the bytes, and that entry points start one.
    pub fn check(&self) -> Result<(), CodeError> {
        let mut free = 0_usize;
        for function in &self.functions {
            let start = function.offset as usize;
            let end = start.checked_add(function.len as usize);
            match end {
                Some(end)
                    if start >= free
                        && start.is_multiple_of(ALIGNMENT)
                        && end > start
                        && end <= self.bytes.len() =>
                {
                    free = end
                }
                _ => {
                    return Err(CodeError::Function {
                        name: function.name.clone(),
                        offset: function.offset,
                        len: function.len,
                        bytes: self.bytes.len(),
                    });
                }
            }
        }
        let starts = |offset: u32| self.functions.binary_search_by_key(&offset, |function| function.offset);
        let shapes =
            self.shapes.iter().enumerate().map(|(stage, &offset)| (format!("shape_{stage}"), offset));
        for (name, offset) in std::iter::once(("entry".to_string(), self.entry)).chain(shapes) {
            if starts(offset).is_err() {
                return Err(CodeError::EntryPoint { name, offset });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Code {
        let function = |name: &str, offset, len| CodeFunction { name: name.to_string(), offset, len };
        Code {
            target: TargetSpec { arch: Arch::X86_64, features: vec![Feature::Sse42] },
            entry: 64,
            shapes: vec![0],
            functions: vec![function("shape_0", 0, 10), function("entry", 64, 30)],
            bytes: vec![0; 94],
        }
    }

    #[test]
    fn a_sound_description_passes_and_survives_json_without_its_bytes() {
        let code = code();
        assert_eq!(code.check(), Ok(()));
        let mut read: Code = serde_json::from_str(&serde_json::to_string(&code).unwrap()).unwrap();
        assert!(read.bytes.is_empty());
        assert!(read.check().is_err());
        read.bytes = code.bytes.clone();
        assert_eq!(read, code);
    }

    #[test]
    fn functions_and_entry_points_outside_the_bytes_are_refused() {
        let broken = |change: fn(&mut Code)| {
            let mut code = code();
            change(&mut code);
            code.check()
        };
        assert!(matches!(broken(|code| code.bytes.truncate(93)), Err(CodeError::Function { .. })));
        assert!(matches!(broken(|code| code.functions[0].len = 65), Err(CodeError::Function { .. })));
        assert!(matches!(broken(|code| code.functions[1].len = u32::MAX), Err(CodeError::Function { .. })));
        assert!(matches!(broken(|code| code.functions[1].offset = 65), Err(CodeError::Function { .. })));
        assert!(matches!(broken(|code| code.entry = 65), Err(CodeError::EntryPoint { .. })));
        assert!(matches!(broken(|code| code.shapes.push(12)), Err(CodeError::EntryPoint { .. })));
    }
}
