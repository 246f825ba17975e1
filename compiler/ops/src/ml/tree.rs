//! Ensembles of decision trees.

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};

/// What becomes of the votes for one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Their sum over the number of trees.
    Average,
    /// Their sum.
    Sum,
    /// The least of them; 0 without votes.
    Min,
    /// The largest of them; 0 without votes.
    Max,
}

/// Attributes of [`crate::Op::TreeEnsemble`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeEnsemble {
    /// Number of targets.
    pub targets: usize,
    /// What becomes of the votes.
    pub aggregate: Aggregate,
}

/// How a node compares a feature `x` with its split `v`.
const LESS_OR_EQUAL: i64 = 0;
const LESS: i64 = 1;
const GREATER_OR_EQUAL: i64 = 2;
const GREATER: i64 = 3;
const EQUAL: i64 = 4;
const NOT_EQUAL: i64 = 5;
const MEMBER: i64 = 6;

/// The trees, checked: every index is within its table.
struct Trees {
    features: Vec<i64>,
    modes: Vec<i64>,
    splits: Vec<f64>,
    children: Vec<i64>,
    missing: Vec<bool>,
    members: Vec<f64>,
    member_ends: Vec<i64>,
    roots: Vec<i64>,
    leaf_ends: Vec<i64>,
    targets: Vec<i64>,
    weights: Vec<f64>,
}

impl Trees {
    fn read(cx: &Context<'_>, attributes: &TreeEnsemble, feature_count: usize) -> Result<Self, EvalError> {
        let integers = |index: usize, name: &str| cx.integer_list(name, cx.input(index)?);
        let children = cx.input(4)?;
        if children.rank() != 2 || children.shape()[1] != 2 {
            return Err(cx.shape("a node has two children"));
        }
        let trees = Self {
            features: integers(1, "features")?,
            modes: integers(2, "modes")?,
            splits: cx.floats("splits", cx.input(3)?)?,
            children: cx.integers("children", children)?,
            missing: cx.input(5)?.bytes().iter().map(|byte| *byte != 0).collect(),
            members: cx.floats("members", cx.input(6)?)?,
            member_ends: integers(7, "member_ends")?,
            roots: integers(8, "roots")?,
            leaf_ends: integers(9, "leaf_ends")?,
            targets: integers(10, "targets")?,
            weights: cx.floats("weights", cx.input(11)?)?,
        };
        let nodes = trees.features.len();
        let lengths = [trees.modes.len(), trees.splits.len(), trees.missing.len(), trees.member_ends.len()];
        let even = lengths.iter().all(|length| *length == nodes) && trees.children.len() == nodes * 2;
        if !even || cx.input(5)?.dtype() != DType::Bool || trees.targets.len() != trees.weights.len() {
            return Err(cx.shape("the tables of nodes or votes have several lengths"));
        }
        let below = |index: i64, count: usize| usize::try_from(index).is_ok_and(|index| index < count);
        let place = |index: i64| match index {
            0.. => below(index, nodes),
            leaf => below(-1 - leaf, trees.leaf_ends.len()),
        };
        let ascending = |ends: &[i64], count: usize| {
            ends.iter().all(|&end| below(end, count.saturating_add(1))) && ends.is_sorted()
        };
        let fits = trees.features.iter().all(|&feature| below(feature, feature_count))
            && trees.modes.iter().all(|mode| (LESS_OR_EQUAL..=MEMBER).contains(mode))
            && trees.children.iter().chain(&trees.roots).all(|&index| place(index))
            && ascending(&trees.member_ends, trees.members.len())
            && ascending(&trees.leaf_ends, trees.weights.len())
            && trees.targets.iter().all(|&target| below(target, attributes.targets));
        if fits { Ok(trees) } else { Err(cx.bad("a node, feature, leaf or target that is not there")) }
    }

    /// Whether a row goes on at the first child of a node.
    fn holds(&self, node: usize, x: f64) -> bool {
        let split = self.splits[node];
        let compared = match self.modes[node] {
            LESS_OR_EQUAL => x <= split,
            LESS => x < split,
            GREATER_OR_EQUAL => x >= split,
            GREATER => x > split,
            EQUAL => x == split,
            NOT_EQUAL => x != split,
            _ => {
                let start = node.checked_sub(1).map_or(0, |before| self.member_ends[before]);
                self.members[start as usize..self.member_ends[node] as usize].contains(&x)
            }
        };
        compared || (self.missing[node] && x.is_nan())
    }

    /// The leaf that a row comes to.
    fn leaf(&self, cx: &Context<'_>, root: i64, row: &[f64]) -> Result<usize, EvalError> {
        let mut at = root;
        for _ in 0..=self.features.len() {
            cx.step()?;
            let Ok(node) = usize::try_from(at) else { return Ok((-1 - at) as usize) };
            let first = self.holds(node, row[self.features[node] as usize]);
            at = self.children[node * 2 + usize::from(!first)];
        }
        Err(cx.bad("the nodes of a tree form a cycle"))
    }

    /// The votes of a leaf: targets and weights.
    fn votes(&self, leaf: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let start = leaf.checked_sub(1).map_or(0, |before| self.leaf_ends[before]);
        let range = start as usize..self.leaf_ends[leaf] as usize;
        range.map(|vote| (self.targets[vote] as usize, self.weights[vote]))
    }
}

impl Evaluate for TreeEnsemble {
    fn arity(&self) -> Arity {
        Arity::of(12, 12)
    }

    /// Inputs `x [rows, features]`, of each node `features i64[n]`, `modes i64[n]` (0 `<=`, 1 `<`, 2 `>=`, 3 `>`, 4 `==`, 5 `!=`, 6 one of its
    /// members), `splits [n]`, `children i64[n, 2]` (where the comparison holds and where not; leaf `l` is `-1 - l`), `missing bool[n]` (whether
    /// NaN counts as holding), `members [m]` and `member_ends i64[n]`; `roots i64[trees]`, like children; of each leaf `leaf_ends i64[leaves]`
    /// among its votes' `targets i64[v]` and `weights [v]`. The result is `[rows, targets]`.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let &[rows, features] = x.shape() else { return Err(cx.shape("the input has two axes")) };
        for index in [3, 6, 11] {
            cx.same_dtype("a table of floats", x, cx.input(index)?)?;
        }
        let trees = Trees::read(cx, self, features)?;
        let cells = cx.floats("x", x)?;
        let single = x.dtype() == DType::F32;
        let round = |value: f64| if single { f64::from(value as f32) } else { value };
        let count = cx.count(&[rows, self.targets])?;
        let mut scores = cx.filled(count, 0.0f64)?;
        let mut voted = cx.filled(self.targets, false)?;
        for row in 0..rows {
            let scores = &mut scores[row * self.targets..][..self.targets];
            voted.fill(false);
            for &root in &trees.roots {
                let leaf = trees.leaf(cx, root, &cells[row * features..][..features])?;
                for (target, weight) in trees.votes(leaf) {
                    let score = &mut scores[target];
                    *score = match self.aggregate {
                        Aggregate::Sum | Aggregate::Average => round(*score + weight),
                        _ if !std::mem::replace(&mut voted[target], true) => weight,
                        Aggregate::Min => score.min(weight),
                        Aggregate::Max => score.max(weight),
                    };
                }
            }
            if self.aggregate == Aggregate::Average {
                let trees = trees.roots.len().max(1) as f64;
                scores.iter_mut().for_each(|score| *score = round(*score / trees));
            }
        }
        Ok(vec![if single {
            let scores: Vec<f32> = scores.iter().map(|&score| score as f32).collect();
            cx.tensor_of(&scores, &[rows, self.targets])?
        } else {
            cx.tensor_of(&scores, &[rows, self.targets])?
        }])
    }
}
