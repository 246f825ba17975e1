//! A model without its weights: what its sizes tell.

use std::path::{Path, PathBuf};

use lathe_ir::Module;

use crate::error::Fault;
use crate::gguf::GgufFile;
use crate::model::{self, Config, Weight, Weights};
use crate::{ImportError, ImportOptions, import};

/// A model whose weights need not be there.
#[derive(Clone, Debug)]
pub struct Outline {
    /// The model. Of a configuration, `main` has its weights as inputs whose names begin with [`crate::WEIGHT`].
    pub module: Module,
    /// `model_type` of the configuration, or the kind of file.
    pub family: String,
    /// Tokens that the model was made for.
    pub context: Option<u64>,
    /// Height and width of the pictures that the model was made for.
    pub picture: Option<u64>,
    /// Bytes of an element of the weights.
    pub weight_element_bytes: f64,
    /// Whether the graph is what an exporter wrote: attention and mixtures of experts are still to be found in it.
    pub exported: bool,
}

/// The outline of a model: of a configuration (`*.json`), of a folder with `config.json`, or of a model file.
///
/// # Errors
/// As [`import`]. That weights are missing is none.
pub fn outline(path: &Path, options: &ImportOptions) -> Result<Outline, ImportError> {
    match configuration(path) {
        Some(file) => of_config(&Config::read(&file)?, options).map_err(|fault| fault.in_file(&file)),
        None => {
            let module = import(path, options)?;
            let weight_element_bytes = element_bytes(&module);
            let (family, context) = facts(path)?;
            let exported = is_exported(path);
            Ok(Outline { module, family, context, picture: None, weight_element_bytes, exported })
        }
    }
}

/// Whether a model is a graph that an exporter wrote, not one that is built of a configuration or of a GGUF file.
pub fn is_exported(path: &Path) -> bool {
    configuration(path).is_none() && !is_gguf(path)
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The kind of a model file, or the architecture that a GGUF file names, and its context where it says so.
fn facts(path: &Path) -> Result<(String, Option<u64>), ImportError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("model");
    if !is_gguf(path) {
        return Ok((extension.to_string(), None));
    }
    let file = GgufFile::open(path)?;
    let architecture = file.text("general.architecture")?.unwrap_or(extension).to_string();
    let context = file.count(&format!("{architecture}.context_length"))?;
    Ok((architecture, context))
}

fn configuration(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(model::path_in(path));
    }
    let extension = path.extension().and_then(|extension| extension.to_str())?;
    extension.eq_ignore_ascii_case("json").then(|| path.to_path_buf())
}

fn of_config(config: &Config, options: &ImportOptions) -> Result<Outline, Fault> {
    let module = model::build_outline(config, options)?;
    let text = config.part("text_config")?;
    let language = text.as_ref().unwrap_or(config);
    let names = ["max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx"];
    let context = language.optional_size(&names)?;
    let vision = config.part("vision_config")?;
    let picture = vision.as_ref().unwrap_or(config).optional_size(&["image_size"])?;
    let dtype = match config.text(&["dtype", "torch_dtype"])? {
        None => language.text(&["dtype", "torch_dtype"])?,
        found => found,
    };
    Ok(Outline {
        module,
        family: config.text(&["model_type"])?.unwrap_or_default().to_string(),
        context: context.map(|context| context as u64),
        picture: picture.map(|picture| picture as u64),
        weight_element_bytes: match dtype {
            Some("float16" | "bfloat16") => 2.0,
            _ => 4.0,
        },
        exported: false,
    })
}

/// Bytes an element of a module's weights, on average: quantised ones as they are stored.
fn element_bytes(module: &Module) -> f64 {
    let named = module.constants().map(|(_, constant)| constant);
    let named = named.filter(|constant| constant.name.is_some() && constant.dtype().is_float());
    let (bytes, count) = named.fold((0.0, 0.0), |(bytes, count), constant| {
        let elements: f64 = constant.shape.iter().map(|&size| size as f64).product();
        (bytes + constant.tensor.bytes().len() as f64, count + elements)
    });
    if count == 0.0 { 4.0 } else { bytes / count }
}

/// A file without weights.
pub(crate) struct Nothing;

impl Weights for Nothing {
    fn weight(&self, _: &str) -> Result<Option<Weight>, Fault> {
        Ok(None)
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}
