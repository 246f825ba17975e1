//! The command line: every command and flag of this version. Each flag also reads `LATHE_<FLAG>`; the flag wins.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::size::ByteSize;
use super::sizing::{CompareArgs, PlanArgs};

mod chat;
mod generate;
mod memory;
mod pipeline;
mod quantize;
mod text;

pub use chat::ChatArgs;
pub use generate::{GenerateArgs, PromptArgs, SamplingArgs};
pub use memory::{KvArg, RopeArgs};
pub use pipeline::{CaptionArgs, ClassifyArgs, EmbedArgs, FillMaskArgs, Pooling, TranscribeArgs};
pub use quantize::{PrecisionChoice, QuantizeArgs};
pub use text::{TemplateArgs, TokenizeArgs};

/// Compile transformer models into native CPU programs and run them.
#[derive(Parser, Debug)]
#[command(
    name = "lathe",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// Worker threads; default: the CPUs that this process may use
    #[arg(long, global = true, env = "LATHE_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Instruction set of the kernels
    #[arg(long, global = true, env = "LATHE_ISA", value_enum, default_value = "native")]
    pub isa: IsaChoice,
    /// Fix a symbolic size of the inputs, such as batch=1 (repeatable)
    #[arg(long, global = true, env = "LATHE_DIM", value_name = "NAME=SIZE", value_delimiter = ',', value_parser = parse_dim)]
    pub dim: Vec<(String, i64)>,
    /// Memory that a compile or run may take
    #[arg(
        long,
        global = true,
        env = "LATHE_MAX_MEMORY",
        value_name = "SIZE",
        long_help = "Memory that a compile or run may take; default: 6GiB"
    )]
    pub max_memory: Option<ByteSize>,
    /// What products with quantised weights compute in: f32 follows the reference, int8 is fast
    #[arg(long, global = true, env = "LATHE_ACTIVATIONS", value_enum, default_value = "auto")]
    pub activations: ActivationsChoice,
    /// Other rotary embeddings.
    #[command(flatten)]
    pub rope: RopeArgs,
    /// What weights are stored in: as the model has them, or in blocks of 8 or 4 bits with scales
    #[arg(long, global = true, env = "LATHE_PRECISION", value_enum)]
    pub precision: Option<PrecisionChoice>,
    /// Neither read nor write the compile cache
    #[arg(long, global = true, env = "LATHE_NO_CACHE", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub no_cache: bool,
    /// Log level of standard error: error, warn, info, debug, trace
    #[arg(long, global = true, env = "LATHE_LOG", value_name = "LEVEL", default_value = "warn")]
    pub log: tracing::Level,
}

impl Common {
    /// Bytes that a compile or run may take: 6 GiB where nothing is said.
    pub fn max_memory(&self) -> u64 {
        self.max_memory.map_or(6 << 30, |size| size.0)
    }
}

/// `--activations`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationsChoice {
    /// Weights are decoded, activations stay as they are.
    F32,
    /// Activations become 8-bit integers.
    Int8,
    /// int8, but f32 for MatMulNBits of ONNX files without `accuracy_level` 4.
    Auto,
}

/// `--json`, of every command but `test`, where it names a file.
#[derive(Args, Debug, Clone, Copy)]
pub struct JsonFlag {
    /// Print one JSON document on standard output and nothing else there
    #[arg(long, env = "LATHE_JSON", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub json: bool,
}

/// The commands of this version.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Compile a model into a native program and write it as an artifact
    Compile(CompileArgs),
    /// Run one inference
    Run(RunArgs),
    /// Run folders of test cases in the layout of the ONNX backend tests
    Test(TestArgs),
    /// Measure the time of an inference
    Bench(BenchArgs),
    /// Show what a model or artifact holds
    Inspect(InspectArgs),
    /// Say what each pass did or refused, and why each step runs as it does
    Explain(ExplainArgs),
    /// Continue prompts
    Generate(Box<GenerateArgs>),
    /// Write a model anew with weights of fewer bits, and say how far its answers are off
    Quantize(QuantizeArgs),
    /// Write a model anew with other floats or fewer key and value heads, and say how far its answers are off
    Convert(QuantizeArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Give each text a vector
    Embed(EmbedArgs),
    /// Say how likely a text is of each class
    Classify(ClassifyArgs),
    /// Fill the gaps of a text
    FillMask(FillMaskArgs),
    /// Say what a picture shows
    Caption(CaptionArgs),
    /// Write down what is said
    Transcribe(TranscribeArgs),
    /// Turn text into tokens, or tokens into text
    Tokenize(TokenizeArgs),
    /// Show the prompt that a chat template makes of a conversation
    Template(TemplateArgs),
    /// Compare the compiled program with the evaluator and with tract
    Verify(VerifyArgs),
    /// Say what a model needs, from its configuration alone
    Plan(PlanArgs),
    /// Say what several models need, side by side
    Compare(CompareArgs),
    /// Show what this machine offers
    Doctor(JsonFlag),
}

/// `lathe compile`.
#[derive(Args, Debug)]
pub struct CompileArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// An .onnx file, a folder with config.json and *.safetensors, or a .lathe artifact
    pub model: PathBuf,
    /// Where to write the artifact; default: the model's name with .lathe, in the current folder
    #[arg(short, long, env = "LATHE_OUTPUT", value_name = "OUT.lathe")]
    pub output: Option<PathBuf>,
    /// CPU level to generate code for (repeatable)
    #[arg(long, env = "LATHE_TARGET", value_enum, value_delimiter = ',')]
    pub target: Vec<TargetChoice>,
    /// Print a stage instead of writing an artifact
    #[arg(long, env = "LATHE_EMIT", value_enum)]
    pub emit: Option<Stage>,
    /// Print the IR after this pass
    #[arg(long, env = "LATHE_EMIT_AFTER", value_name = "PASS")]
    pub emit_after: Option<String>,
    /// Leave a pass out (repeatable)
    #[arg(long, env = "LATHE_DISABLE", value_name = "PASS", value_delimiter = ',')]
    pub disable: Vec<String>,
    /// Merge key and value heads to this many by their means; the report says what that changes
    #[arg(long, env = "LATHE_KV_HEADS", value_name = "N")]
    pub kv_heads: Option<usize>,
    /// Elements of the cache.
    #[command(flatten)]
    pub kv: KvArg,
    /// Stop after this many rewrites, to find the one that breaks a model
    #[arg(long, env = "LATHE_STOP_AFTER", value_name = "N")]
    pub stop_after: Option<usize>,
    /// Evaluate the graph before and after each pass, and the program at the end, on typed random inputs
    #[arg(long, env = "LATHE_VERIFY", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub verify: bool,
    /// Sign the artifact with this ed25519 key (32 bytes, raw or hexadecimal)
    #[arg(long, env = "LATHE_SIGN_KEY", value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
}

/// Where inputs come from.
#[derive(Args, Debug, Clone)]
pub struct InputArgs {
    /// An input: NAME=FILE (.npy, .npz, .pb, .safetensors; repeatable)
    #[arg(long, env = "LATHE_INPUT", value_name = "NAME=FILE")]
    pub input: Vec<String>,
    /// A file that holds inputs under their names
    #[arg(long, env = "LATHE_INPUTS", value_name = "FILE.safetensors")]
    pub inputs: Option<PathBuf>,
    /// What the names in --inputs begin with, such as case0.in.
    #[arg(long, env = "LATHE_PREFIX", value_name = "PREFIX", default_value = "", requires = "inputs")]
    pub prefix: String,
    /// Make up the inputs that are not given
    #[arg(long, env = "LATHE_FILL", value_enum)]
    pub fill: Option<Fill>,
    /// Seed of --fill random
    #[arg(long, env = "LATHE_SEED", value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Trust artifacts signed by this ed25519 public key (32 bytes, raw or hexadecimal)
    #[arg(long, env = "LATHE_TRUST_KEY", value_name = "FILE")]
    pub trust_key: Option<PathBuf>,
}

/// `lathe run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// An .onnx file, a folder with config.json and *.safetensors, or a .lathe artifact
    pub model: PathBuf,
    /// Where inputs come from.
    #[command(flatten)]
    pub inputs: InputArgs,
    /// Write every output into this folder
    #[arg(long, env = "LATHE_OUTPUT_DIR", value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Format of the files in --output-dir
    #[arg(long, env = "LATHE_OUTPUT_FORMAT", value_enum, default_value = "npy")]
    pub output_format: OutputFormat,
}

/// `lathe test`.
#[derive(Args, Debug)]
pub struct TestArgs {
    /// Folders below which cases lie
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Seconds that one case may take
    #[arg(long, env = "LATHE_TIMEOUT", value_name = "SECONDS", default_value_t = 20)]
    pub timeout: u64,
    /// Only cases whose path matches this regular expression
    #[arg(long, env = "LATHE_FILTER", value_name = "REGEX")]
    pub filter: Option<String>,
    /// Only the cases in this file: one path a line, or a JSON list
    #[arg(long, env = "LATHE_LIST", value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// Write the result of every case into this file
    #[arg(long = "json", env = "LATHE_TEST_JSON", value_name = "FILE")]
    pub results: Option<PathBuf>,
    /// Run the cases that standard input names, one a line: how `test` calls its own worker processes
    #[arg(long, hide = true)]
    pub worker: bool,
}

/// `lathe bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// An .onnx file, a folder with config.json and *.safetensors, or a .lathe artifact
    pub model: PathBuf,
    /// Where inputs come from.
    #[command(flatten)]
    pub inputs: InputArgs,
    /// Measured runs; default: 20, or 3 with --prompt-tokens
    #[arg(long, env = "LATHE_RUNS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: Option<u32>,
    /// Runs before the measured ones; default: 3, or 1 with --prompt-tokens
    #[arg(long, env = "LATHE_WARMUP", value_name = "N")]
    pub warmup: Option<u32>,
    /// Measure generation instead: take in a prompt of this many random tokens; 512 where only --gen-tokens is given
    #[arg(long, env = "LATHE_PROMPT_TOKENS", value_name = "N", conflicts_with_all = ["vary", "profile", "inputs", "input", "fill"])]
    pub prompt_tokens: Option<u32>,
    /// Measure generation instead: this many new tokens after the prompt's first; 128 where only --prompt-tokens is given
    #[arg(long, env = "LATHE_GEN_TOKENS", value_name = "N", conflicts_with_all = ["vary", "profile", "inputs", "input", "fill"])]
    pub gen_tokens: Option<u32>,
    /// Vary a symbolic size from run to run, such as seq=1..256
    #[arg(long, env = "LATHE_VARY", value_name = "NAME=FROM..TO")]
    pub vary: Option<String>,
    /// Time per node and step
    #[arg(long, env = "LATHE_PROFILE", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub profile: bool,
}

/// `lathe inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// An .onnx file, a folder with config.json and *.safetensors, a .lathe artifact or a .safetensors file
    pub model: PathBuf,
    /// Compare the hashes of an artifact's tensors
    #[arg(long, env = "LATHE_CHECK", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub check: bool,
    /// Elements of the cache.
    #[command(flatten)]
    pub kv: KvArg,
    /// Write a self-contained page: the graph before and after each pass, memory over time, the hottest nodes
    #[arg(long, env = "LATHE_HTML", value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `lathe explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// An .onnx file, or a folder with config.json and *.safetensors
    pub model: PathBuf,
    /// Run the model, on made-up inputs unless they are given, and show each step's share of the time and of the machine
    #[arg(long, env = "LATHE_PROFILE", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub profile: bool,
    /// Leave a pass out (repeatable)
    #[arg(long, env = "LATHE_DISABLE", value_name = "PASS", value_delimiter = ',')]
    pub disable: Vec<String>,
    /// Where inputs come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// `lathe verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// An .onnx file, or a folder with config.json and *.safetensors
    pub model: PathBuf,
    /// Seed of the inputs
    #[arg(long, env = "LATHE_SEED", value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Token ids, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenList(pub Vec<u32>);

impl std::str::FromStr for TokenList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let token = |part: &str| {
            part.trim()
                .parse::<u32>()
                .map_err(|_| format!("`{part}` is not a token id: expected ids such as 1,2,3"))
        };
        text.split(',').map(token).collect::<Result<_, _>>().map(Self)
    }
}

/// `--cache`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheChoice {
    /// Keep them where the model allows it.
    Auto,
    /// Run the whole prefix again for each token.
    Off,
}

/// `--isa`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsaChoice {
    /// Plain Rust, on any CPU.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// The best that this CPU has.
    Native,
}

/// `--target`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetChoice {
    /// The CPU of this machine.
    Native,
    /// SSE4.2.
    #[value(name = "x86-64-v2", alias = "v2")]
    V2,
    /// AVX2 and FMA.
    #[value(name = "x86-64-v3", alias = "v3")]
    V3,
    /// AVX-512.
    #[value(name = "x86-64-v4", alias = "v4")]
    V4,
}

/// `--emit`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The optimised IR.
    Ir,
    /// The plan.
    Plan,
    /// Cranelift's IR.
    Clif,
    /// Machine code, disassembled.
    Asm,
}

/// `--fill`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Seeded random values that fit the dtype.
    Random,
    /// Zeros.
    Zeros,
}

/// `--output-format`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// NumPy.
    Npy,
    /// ONNX TensorProto.
    Pb,
    /// One safetensors file.
    Safetensors,
}

fn parse_dim(text: &str) -> Result<(String, i64), String> {
    let (name, size) = text.split_once('=').ok_or("expected NAME=SIZE, such as batch=1")?;
    match size.parse::<i64>() {
        Ok(size) if size >= 0 && !name.is_empty() => Ok((name.to_string(), size)),
        _ => Err(format!("`{size}` is not a size")),
    }
}

#[cfg(test)]
mod tests;
