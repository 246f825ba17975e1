//! Instruction sets and their builtin tables.

use std::sync::LazyLock;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{Builtin, args};

use crate::kernel::{Kernel, enter};
use crate::simd::Portable;

/// A set of kernels, by the instructions that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// What every CPU of the target has (SSE2, NEON).
    Portable,
    /// AVX2, FMA, F16C, BMI (x86-64-v3).
    Avx2,
    /// AVX2 and AVX-512 F, BW, CD, DQ, VL (x86-64-v4).
    Avx512,
}

impl Isa {
    /// Every set, weakest first.
    pub const ALL: &'static [Isa] = &[Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The strongest set that this CPU has.
    pub fn detect() -> Isa {
        Self::ALL.iter().copied().rfind(|isa| isa.supported()).unwrap_or(Isa::Portable)
    }

    /// The name that options and printed plans use.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// The set of that name.
    pub fn from_name(name: &str) -> Option<Isa> {
        Self::ALL.iter().copied().find(|isa| isa.name() == name)
    }

    /// Whether this CPU has its instructions.
    pub fn supported(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => has_avx2(),
            Isa::Avx512 => has_avx512(),
        }
    }

    /// Every set that this CPU has.
    pub fn available() -> impl Iterator<Item = Isa> {
        Self::ALL.iter().copied().filter(|isa| isa.supported())
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe")
        && is_x86_feature_detected!("popcnt")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

/// The addresses of the builtins, in the order of [`Builtin`]. Each is an
/// `unsafe extern "C" fn(*const Worker, *const args::Name) -> i32` that never unwinds.
///
/// The caller checks [`Isa::supported`] first; a set that the CPU lacks gives the portable table.
pub fn table(isa: Isa) -> &'static [usize; Builtin::COUNT] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.supported() => &AVX2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.supported() => &AVX512,
        _ => &PORTABLE,
    }
}

/// Calls a builtin of a set through its table, as generated code does.
///
/// # Safety
/// The arguments satisfy the contract of the builtin's row in [`lathe_artifact::builtin`], and no other worker writes what
/// this one reads.
pub unsafe fn call<A: lathe_artifact::builtin::Arguments>(isa: Isa, worker: &Worker, args: &A) -> Status {
    let address = table(isa)[A::BUILTIN as usize];
    // SAFETY: the table holds, at the index of the argument type's builtin, a function of this type.
    let function: unsafe extern "C" fn(*const Worker, *const A) -> i32 =
        unsafe { std::mem::transmute(address) };
    // SAFETY: the caller vouches for the arguments.
    Status::from_code(unsafe { function(worker, args) })
}

/// Builds the table of one instruction set and proves at compile time that it has a row for every builtin.
macro_rules! rows {
    ($($name:ident)*) => {
        fn rows<S: Enter>() -> [usize; Builtin::COUNT] {
            const fn complete(builtin: Builtin) {
                match builtin { $(Builtin::$name => (),)* }
            }
            const _: () = complete(Builtin::Copy);
            let mut table = [0; Builtin::COUNT];
            $(table[Builtin::$name as usize] = S::address::<args::$name>();)*
            table
        }
    };
}

rows! {
    MatMulPacked MatMulEncoded MatMulStrided MatMulNumber MatMulInteger PackIntegers ConvInteger MapBytes QuantizeBytes SumBytes DynamicQuantize Conv ConvVolume ConvTranspose ConvTransposeCells Pool PoolBytes LayerNorm GroupNorm Softmax Reduce ArgReduce CumSum TopK Copy Fill
    Pad Gather GatherEncoded GatherNd ScatterNd GatherElements ScatterElements NonZeroCount NonZero BroadcastSizes Resize ResizeAxis ResizeSizes NonMaxSuppression GridSample RoiAlign RotaryEmbedding Recurrent
    MoeRoute MoeGroup MoeCount MoeMatMul MoeGate MoeCombine Tile Fourier Attention KvAppend PagedAttention
}

/// Where an instruction set's functions are.
trait Enter {
    /// The address of a builtin.
    fn address<K: Kernel>() -> usize;
}

macro_rules! tables {
    ($($(#[$attribute:meta])* $table:ident $simd:ident;)*) => {
        $(
            $(#[$attribute])*
            impl Enter for $simd {
                fn address<K: Kernel>() -> usize {
                    unsafe extern "C" fn builtin<K: Kernel>(worker: *const Worker, args: *const K) -> i32 {
                        // SAFETY: `table` hands this set out only where the CPU has it.
                        let simd = unsafe { $simd::new() };
                        // SAFETY: the caller gives a valid worker and arguments.
                        unsafe { enter(simd, worker, args) as i32 }
                    }
                    builtin::<K> as unsafe extern "C" fn(*const Worker, *const K) -> i32 as usize
                }
            }

            $(#[$attribute])*
            static $table: LazyLock<[usize; Builtin::COUNT]> = LazyLock::new(rows::<$simd>);
        )*
    };
}

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};

tables! {
    PORTABLE Portable;
    #[cfg(target_arch = "x86_64")]
    AVX2 Avx2;
    #[cfg(target_arch = "x86_64")]
    AVX512 Avx512;
}
