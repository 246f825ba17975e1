//! Ids and value types.

use lathe_tensor::DType;

use crate::Dim;

macro_rules! ids {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// Its number, for dense side tables; not stable across edits that remove things.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    )* };
}

ids! {
    /// A value of a function: an input, a constant or an output of a node.
    ValueId,
    /// A node of a function.
    NodeId,
    /// A function of a module.
    FunctionId,
    /// A constant of a module.
    ConstantId,
}

/// Dtype and symbolic sizes of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueType {
    /// Dtype of the elements.
    pub dtype: DType,
    /// Sizes of the axes, outermost first.
    pub dims: Vec<Dim>,
}

impl ValueType {
    /// A type of this dtype and these sizes.
    pub fn new(dtype: DType, dims: impl Into<Vec<Dim>>) -> Self {
        Self { dtype, dims: dims.into() }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }
}

impl std::fmt::Display for ValueType {
    /// `f32[batch, 3]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (index, dim) in self.dims.iter().enumerate() {
            write!(f, "{}{dim}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}
