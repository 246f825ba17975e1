//! What all generated functions share: their signatures and a thin layer over Cranelift's builder.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{
    AbiParam, Block, BlockArg, ExtFuncData, ExternalName, FuncRef, Function, InstBuilder, MemFlagsData,
    SigRef, Signature, Type, UserExternalName, UserFuncName, Value,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use lathe_artifact::abi::{Run, Worker};

use crate::link::Draft;
use crate::target::Effort;

/// The number of a generated function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FunctionId(pub u32);

/// Memory of the run's own structures: valid and aligned.
pub(crate) const TABLE: MemFlagsData = MemFlagsData::trusted();

/// Memory of tensors: valid, at any address.
pub(crate) const DATA: MemFlagsData = MemFlagsData::new().with_notrap();

/// Offsets of the fields of [`Run`] and [`Worker`].
pub(crate) mod field {
    use super::*;
    pub const RUN: i32 = offset_of!(Worker, run) as i32;
    pub const INDEX: i32 = offset_of!(Worker, index) as i32;
    pub const COUNT: i32 = offset_of!(Worker, count) as i32;
    pub const SCRATCH: i32 = offset_of!(Worker, scratch) as i32;
    pub const TABLE: i32 = offset_of!(Run, table) as i32;
    pub const SLOTS: i32 = offset_of!(Run, slots) as i32;
    pub const DIMS: i32 = offset_of!(Run, dims) as i32;
    pub const CANCEL: i32 = offset_of!(Run, cancel) as i32;
    pub const TRACE: i32 = offset_of!(Run, trace) as i32;
}

/// A C function of `params` that returns a status.
pub(crate) fn signature(params: &[Type]) -> Signature {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.extend(params.iter().map(|&param| AbiParam::new(param)));
    signature.returns.push(AbiParam::new(I32));
    signature
}

/// The functions that were written so far. A function's number is its place in the list.
pub(crate) struct Drafts {
    list: Vec<Draft>,
    context: FunctionBuilderContext,
    config: TargetFrontendConfig,
}

impl Drafts {
    /// None so far.
    pub fn new(config: TargetFrontendConfig) -> Self {
        Self { list: Vec::new(), context: FunctionBuilderContext::new(), config }
    }

    /// Adds a C function of `params` that returns a status; `write` fills it.
    pub fn add(
        &mut self,
        name: String,
        params: &[Type],
        effort: Effort,
        write: impl FnOnce(&mut Builder<'_>, &[Value]),
    ) -> FunctionId {
        let mut function = Function::with_name_signature(UserFuncName::default(), signature(params));
        let mut inner = FunctionBuilder::new(&mut function, &mut self.context);
        let entry = inner.create_block();
        inner.append_block_params_for_function_params(entry);
        inner.switch_to_block(entry);
        let params = inner.block_params(entry).to_vec();
        let mut builder = Builder { inner };
        write(&mut builder, &params);
        builder.inner.seal_all_blocks();
        builder.inner.finalize(self.config);
        self.list.push(Draft { name, function, effort });
        FunctionId(self.list.len() as u32 - 1)
    }

    /// All functions.
    pub fn list(&self) -> &[Draft] {
        &self.list
    }
}

/// A function that is being written.
pub(crate) struct Builder<'a> {
    /// Cranelift's builder; the current block is never filled.
    pub inner: FunctionBuilder<'a>,
}

impl Builder<'_> {
    /// An integer constant of any width, wrapped to it.
    pub fn int(&mut self, ty: Type, value: i64) -> Value {
        let value = match ty {
            I8 => i64::from(value as u8),
            I16 => i64::from(value as u16),
            I32 => i64::from(value as u32),
            _ => value,
        };
        self.inner.ins().iconst(ty, value)
    }

    /// A 64-bit integer constant.
    pub fn i64(&mut self, value: i64) -> Value {
        self.int(I64, value)
    }

    /// Loads 8 bytes of the run's structures.
    pub fn field(&mut self, base: Value, offset: i32) -> Value {
        self.inner.ins().load(I64, TABLE, base, offset)
    }

    /// `a op b` on 64-bit integers against a constant.
    pub fn compare(&mut self, condition: IntCC, a: Value, b: i64) -> Value {
        let ty = self.inner.func.dfg.value_type(a);
        let b = self.int(ty, b);
        self.inner.ins().icmp(condition, a, b)
    }

    /// `a * b` with a constant.
    pub fn times(&mut self, a: Value, b: i64) -> Value {
        match b {
            1 => a,
            _ if b > 0 && b.count_ones() == 1 => {
                self.inner.ins().ishl_imm_u(a, i64::from(b.trailing_zeros()))
            }
            _ => {
                let b = self.i64(b);
                self.inner.ins().imul(a, b)
            }
        }
    }

    /// `a + b` with a constant.
    pub fn plus(&mut self, a: Value, b: i64) -> Value {
        if b == 0 {
            return a;
        }
        let b = self.i64(b);
        self.inner.ins().iadd(a, b)
    }

    /// Jumps to `block` with `args`.
    pub fn jump(&mut self, block: Block, args: &[Value]) {
        let args: Vec<BlockArg> = args.iter().map(|&value| value.into()).collect();
        self.inner.ins().jump(block, &args);
    }

    /// Branches; both blocks take the arguments given.
    pub fn branch(&mut self, condition: Value, then: (Block, &[Value]), other: (Block, &[Value])) {
        let args = |values: &[Value]| values.iter().map(|&value| value.into()).collect::<Vec<BlockArg>>();
        let (then_args, other_args) = (args(then.1), args(other.1));
        self.inner.ins().brif(condition, then.0, &then_args, other.0, &other_args);
    }

    /// Leaves for `block` with `args` where `condition` is not 0; goes on otherwise.
    pub fn leave_if(&mut self, condition: Value, block: Block, args: &[Value]) {
        let next = self.inner.create_block();
        self.branch(condition, (block, args), (next, &[]));
        self.inner.switch_to_block(next);
    }

    /// Leaves for `block` where `condition` is 0; goes on otherwise.
    pub fn leave_unless(&mut self, condition: Value, block: Block) {
        let next = self.inner.create_block();
        self.branch(condition, (next, &[]), (block, &[]));
        self.inner.switch_to_block(next);
    }

    /// Returns a status.
    pub fn return_status(&mut self, status: Value) {
        self.inner.ins().return_(&[status]);
    }

    /// Imports the signature of a C function that returns a status.
    pub fn import_signature(&mut self, params: &[Type]) -> SigRef {
        self.inner.import_signature(signature(params))
    }

    /// Makes another generated function callable.
    pub fn import_function(&mut self, id: FunctionId, signature: SigRef) -> FuncRef {
        let name =
            self.inner.func.declare_imported_user_function(UserExternalName { namespace: 0, index: id.0 });
        self.inner.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: true,
            patchable: false,
        })
    }

    /// Calls through entry `index` of the table at `table`.
    pub fn call_table(&mut self, table: Value, index: usize, signature: SigRef, args: &[Value]) -> Value {
        let address = self.inner.ins().load(I64, TABLE, table, (index * 8) as i32);
        let call = self.inner.ins().call_indirect(signature, address, args);
        self.inner.inst_results(call)[0]
    }

    /// Calls another generated function.
    pub fn call(&mut self, function: FuncRef, args: &[Value]) -> Value {
        let call = self.inner.ins().call(function, args);
        self.inner.inst_results(call)[0]
    }

    /// Calls functions one after another; the first nonzero status is returned at once.
    pub fn call_all(&mut self, functions: &[FunctionId], signature: SigRef, args: &[Value]) {
        if functions.is_empty() {
            return;
        }
        let exit = self.inner.create_block();
        let status = self.inner.append_block_param(exit, I32);
        let next = self.inner.create_block();
        for &function in functions {
            let callee = self.import_function(function, signature);
            let status = self.call(callee, args);
            self.leave_if(status, exit, &[status]);
        }
        self.jump(next, &[]);
        self.inner.switch_to_block(exit);
        self.return_status(status);
        self.inner.switch_to_block(next);
    }
}
