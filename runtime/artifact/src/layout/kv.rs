//! Pages of a KV cache: the layout is the ops' own, for the meaning of the paged ops rests on it.

pub use lathe_ops::attention::paged::KvPage;
