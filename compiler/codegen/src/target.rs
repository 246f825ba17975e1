//! Targets: which instructions the code may use.
//!
//! The lowest x86-64 level is v2: SSE4.1 has rounding, without which Cranelift calls library functions that a
//! self-contained blob does not have.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use cranelift_codegen::isa::{self, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use lathe_artifact::code::{Arch, Feature, TargetSpec};

use crate::CodegenError;

/// A microarchitecture level of x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// SSE4.2 and popcnt.
    V2,
    /// AVX2, FMA, BMI.
    V3,
    /// AVX-512 F, DQ, VL.
    V4,
}

impl Level {
    const fn features(self) -> &'static [Feature] {
        use Feature::*;
        match self {
            Level::V2 => &[Sse3, Ssse3, Sse41, Sse42, Popcnt],
            Level::V3 => &[Sse3, Ssse3, Sse41, Sse42, Popcnt, Avx, Avx2, Fma, Bmi1, Bmi2, Lzcnt],
            Level::V4 => Feature::ALL,
        }
    }
}

/// What code is generated for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    spec: TargetSpec,
}

impl Target {
    /// An x86-64 level.
    pub fn x86_64(level: Level) -> Self {
        Self { spec: TargetSpec { arch: Arch::X86_64, features: level.features().to_vec() } }
    }

    /// The baseline of 64-bit Arm.
    pub fn aarch64() -> Self {
        Self { spec: TargetSpec { arch: Arch::Aarch64, features: Vec::new() } }
    }

    /// This machine, with the highest level that it has in full.
    ///
    /// # Errors
    /// Where the process runs on an architecture or a level below the lowest that is generated for.
    pub fn native() -> Result<Self, CodegenError> {
        let none =
            |reason: &str| CodegenError::Target { target: "native".to_string(), reason: reason.to_string() };
        match Arch::here() {
            Some(Arch::Aarch64) => Ok(Self::aarch64()),
            Some(Arch::X86_64) => [Level::V4, Level::V3, Level::V2]
                .into_iter()
                .map(Self::x86_64)
                .find(|target| target.spec.missing_here().is_empty())
                .ok_or_else(|| none("this machine lacks SSE4.2, the least that is needed")),
            None => Err(none("only x86-64 and aarch64 Unix systems are supported")),
        }
    }

    /// The description that travels with the code.
    pub fn spec(&self) -> &TargetSpec {
        &self.spec
    }

    fn has(&self, feature: Feature) -> bool {
        self.spec.features.contains(&feature)
    }

    /// Cranelift's description: position independent, no probes, no unwind tables, no library calls.
    pub(crate) fn isa(&self, effort: Effort) -> Result<Arc<dyn TargetIsa>, CodegenError> {
        let failed = |reason: String| CodegenError::Target { target: self.to_string(), reason };
        let mut flags = settings::builder();
        for (name, value) in [
            ("opt_level", effort.opt_level()),
            ("is_pic", "true"),
            ("enable_probestack", "false"),
            ("unwind_info", "false"),
            ("enable_verifier", "false"),
        ] {
            flags.set(name, value).map_err(|error| failed(error.to_string()))?;
        }
        let triple = match self.spec.arch {
            Arch::X86_64 => "x86_64-unknown-linux-gnu",
            Arch::Aarch64 => "aarch64-unknown-linux-gnu",
        };
        let mut builder = isa::lookup_by_name(triple).map_err(|error| failed(error.to_string()))?;
        for feature in &self.spec.features {
            builder.enable(cranelift_flag(*feature)).map_err(|error| failed(error.to_string()))?;
        }
        builder.finish(settings::Flags::new(flags)).map_err(|error| failed(error.to_string()))
    }
}

/// Cranelift's name of a feature.
fn cranelift_flag(feature: Feature) -> &'static str {
    match feature {
        Feature::Sse3 => "has_sse3",
        Feature::Ssse3 => "has_ssse3",
        Feature::Sse41 => "has_sse41",
        Feature::Sse42 => "has_sse42",
        Feature::Popcnt => "has_popcnt",
        Feature::Avx => "has_avx",
        Feature::Avx2 => "has_avx2",
        Feature::Fma => "has_fma",
        Feature::Bmi1 => "has_bmi1",
        Feature::Bmi2 => "has_bmi2",
        Feature::Lzcnt => "has_lzcnt",
        Feature::Avx512F => "has_avx512f",
        Feature::Avx512Dq => "has_avx512dq",
        Feature::Avx512Vl => "has_avx512vl",
    }
}

/// How much work goes into a function's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Straight-line glue that runs once a step.
    Glue,
    /// Loops.
    Loop,
}

impl Effort {
    const fn opt_level(self) -> &'static str {
        match self {
            Effort::Glue => "none",
            Effort::Loop => "speed",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.spec.arch {
            Arch::Aarch64 => return f.write_str("aarch64"),
            Arch::X86_64 if self.has(Feature::Avx512Vl) => "v4",
            Arch::X86_64 if self.has(Feature::Avx2) => "v3",
            Arch::X86_64 => "v2",
        };
        write!(f, "x86-64-{level}")
    }
}

impl FromStr for Target {
    type Err = CodegenError;

    /// `native`, `x86-64-v2`, `v2`, `v3`, `v4`, `aarch64`.
    fn from_str(name: &str) -> Result<Self, CodegenError> {
        match name {
            "native" => Self::native(),
            "x86-64-v2" | "v2" => Ok(Self::x86_64(Level::V2)),
            "x86-64-v3" | "v3" => Ok(Self::x86_64(Level::V3)),
            "x86-64-v4" | "v4" => Ok(Self::x86_64(Level::V4)),
            "aarch64" => Ok(Self::aarch64()),
            _ => Err(CodegenError::Target {
                target: name.to_string(),
                reason: "known targets are native, x86-64-v2, x86-64-v3, x86-64-v4 and aarch64".to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for name in ["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"] {
            let target: Target = name.parse().unwrap();
            assert_eq!(target.to_string(), name);
            target.isa(Effort::Loop).unwrap();
        }
        let error = "x86-64-v1".parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("x86-64-v1") && error.contains("x86-64-v2"), "{error}");
    }
}
