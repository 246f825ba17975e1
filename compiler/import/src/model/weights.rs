//! Where a model's weights come from.

use lathe_tensor::{DType, Encoding, Tensor};

use crate::error::Fault;

/// A named weight: mapped bytes, and how they hold the elements.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    /// The elements, or the stored bytes of the encoding.
    pub tensor: Tensor,
    /// How the elements are stored.
    pub encoding: Encoding,
    /// The sizes of what is stored, outermost axis first.
    pub shape: Vec<usize>,
}

impl Weight {
    /// A tensor as it stands.
    pub(crate) fn dense(tensor: Tensor) -> Self {
        let shape = tensor.shape().to_vec();
        Self { tensor, encoding: Encoding::Dense, shape }
    }

    /// The elements as f32, which takes memory for all of them.
    ///
    /// # Errors
    /// Where they are no floats.
    pub(crate) fn to_f32(&self) -> Result<Tensor, Fault> {
        if let Encoding::Blocked(format) = self.encoding {
            return Ok(Tensor::from_blocks(format, self.tensor.bytes(), &self.shape)?);
        }
        let mut wide = Tensor::zeros(DType::F32, &self.shape)?;
        self.tensor.widened(0, wide.as_mut_slice::<f32>()?)?;
        Ok(wide)
    }
}

/// The weights of a model file under the names that model hubs give them: `model.layers.0.self_attn.q_proj.weight`.
///
/// A file format with names of its own maps them. Matrices are `[out, in]`, rows of tables `[rows, width]`.
pub(crate) trait Weights {
    /// The weight of this name; `None` where there is none. Its bytes are not copied.
    ///
    /// # Errors
    /// Where its dtype is not one of a weight.
    fn weight(&self, name: &str) -> Result<Option<Weight>, Fault>;

    /// Every name, sorted.
    fn names(&self) -> Vec<String>;
}
