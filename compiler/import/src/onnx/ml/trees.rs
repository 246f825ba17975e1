//! Ensembles of decision trees: TreeEnsemble, and the older TreeEnsembleClassifier and TreeEnsembleRegressor, brought to one op.

use std::collections::{BTreeMap, BTreeSet};

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Where};
use lathe_ops::ml::tree::{Aggregate, TreeEnsemble};
use lathe_ops::shape::Slice;
use lathe_tensor::{DType, Tensor};

use super::scores::{Labels, TRANSFORMS, Transform};
use crate::error::{Fault, quote};
use crate::onnx::node::{Node, Outputs, positive};

/// Comparisons by their numbers in TreeEnsemble-5 and in the op.
const MODES: [&str; 7] =
    ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER"];
const MEMBER: i64 = 6;

/// The tables of the op.
#[derive(Default)]
struct Tables {
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

impl Tables {
    fn node(&mut self, feature: i64, mode: i64, split: f64, missing: bool, children: [i64; 2]) {
        self.features.push(feature);
        self.modes.push(mode);
        self.splits.push(split);
        self.missing.push(missing);
        self.children.extend(children);
        self.member_ends.push(self.members.len() as i64);
    }

    /// The scores `[rows, targets]` of `x [rows, features]`.
    fn add(
        self,
        node: &mut Node<'_, '_>,
        x: ValueId,
        targets: usize,
        aggregate: Aggregate,
    ) -> Result<ValueId, Fault> {
        let dtype = node.dtype(x);
        let floats = |node: &mut Node<'_, '_>, list: &[f64]| -> Result<ValueId, Fault> {
            let single: Vec<f32> = list.iter().map(|&value| value as f32).collect();
            let tensor = match dtype {
                DType::F64 => Tensor::from_slice(list, &[list.len()])?,
                _ => Tensor::from_slice(&single, &[list.len()])?,
            };
            Ok(node.constant(tensor))
        };
        let missing = Tensor::from_bools(&self.missing, &[self.missing.len()])?;
        let children = Tensor::from_slice(&self.children, &[self.children.len() / 2, 2])?;
        let inputs = [
            x,
            node.ints(&self.features)?,
            node.ints(&self.modes)?,
            floats(node, &self.splits)?,
            node.constant(children),
            node.constant(missing),
            floats(node, &self.members)?,
            node.ints(&self.member_ends)?,
            node.ints(&self.roots)?,
            node.ints(&self.leaf_ends)?,
            node.ints(&self.targets)?,
            floats(node, &self.weights)?,
        ];
        node.add(Op::TreeEnsemble(TreeEnsemble { targets, aggregate }), &inputs)
    }
}

impl Node<'_, '_> {
    /// A tensor attribute's numbers.
    fn numbers(&mut self, name: &str) -> Result<Option<Vec<f64>>, Fault> {
        let Some(proto) = self.attributes.tensor(name)? else { return Ok(None) };
        let tensor = self.importer.tensors.dense(proto)?;
        Ok(Some(match tensor.dtype() {
            DType::F32 => tensor.to_slice::<f32>()?.iter().map(|&value| f64::from(value)).collect(),
            DType::F64 => tensor.to_slice::<f64>()?.into_owned(),
            DType::U8 => tensor.to_slice::<u8>()?.iter().map(|&value| f64::from(value)).collect(),
            DType::F16 => tensor.to_slice::<half::f16>()?.iter().map(|value| value.to_f64()).collect(),
            dtype => return Err(Fault::bad(format!("attribute {} is {dtype}", quote(name)))),
        }))
    }

    /// A list of floats, or of doubles as a tensor.
    fn wide(&mut self, name: &str) -> Result<Vec<f64>, Fault> {
        let floats =
            self.attributes.floats(name)?.map(|list| list.iter().map(|&value| f64::from(value)).collect());
        let doubles = self.numbers(&format!("{name}_as_tensor"))?;
        Ok(floats.or(doubles).unwrap_or_default())
    }
}

impl<'m> Node<'_, 'm> {
    /// A list of so many integers.
    fn list_of(&self, name: &str, count: usize) -> Result<&'m [i64], Fault> {
        let list = self.attributes.ints(name)?.unwrap_or_default();
        match list.len() == count {
            true => Ok(list),
            false => {
                Err(Fault::bad(format!("attribute {} has {} elements, not {count}", quote(name), list.len())))
            }
        }
    }
}

/// TreeEnsemble-5.
pub(crate) fn tree_ensemble(node: &mut Node<'_, '_>) -> Outputs {
    let aggregates = [Aggregate::Average, Aggregate::Sum, Aggregate::Min, Aggregate::Max];
    let aggregate = chosen(node, "aggregate_function", 1, &aggregates)?;
    let (_, transform) = chosen(node, "post_transform", 0, &TRANSFORMS)?;
    let targets = positive("n_targets", node.attributes.int_or("n_targets", 1)?)?;
    node.attributes.ignore(&["nodes_hitrates"]);
    let x = node.input(0)?;
    let (half, dtype) = (node.dtype(x) == DType::F16, node.dtype(x));
    let x = node.rows(x, if half { DType::F32 } else { dtype })?;
    let tables = tables(node)?;
    let scores = tables.add(node, x, targets, aggregate)?;
    let scores = node.transformed(scores, transform)?;
    Ok(vec![node.cast(scores, dtype)?])
}

/// What a number of an attribute stands for.
fn chosen<T: Copy>(node: &Node<'_, '_>, name: &str, default: i64, choices: &[T]) -> Result<T, Fault> {
    let number = node.attributes.int_or(name, default)?;
    let choice = usize::try_from(number).ok().and_then(|number| choices.get(number));
    choice.copied().ok_or_else(|| Fault::bad(format!("attribute {} is {number}", quote(name))))
}

fn tables(node: &mut Node<'_, '_>) -> Result<Tables, Fault> {
    let modes =
        node.numbers("nodes_modes")?.ok_or_else(|| Fault::bad("attribute `nodes_modes` is missing"))?;
    let splits =
        node.numbers("nodes_splits")?.ok_or_else(|| Fault::bad("attribute `nodes_splits` is missing"))?;
    let weights =
        node.numbers("leaf_weights")?.ok_or_else(|| Fault::bad("attribute `leaf_weights` is missing"))?;
    let members = node.numbers("membership_values")?.unwrap_or_default();
    let count = modes.len();
    if splits.len() != count {
        return Err(Fault::bad(format!("{} splits for {count} nodes", splits.len())));
    }
    let mut sets = members.split(|value| value.is_nan());
    let missing = match node.attributes.ints("nodes_missing_value_tracks_true")? {
        Some(_) => node.list_of("nodes_missing_value_tracks_true", count)?.to_vec(),
        None => vec![0; count],
    };
    let features = node.list_of("nodes_featureids", count)?;
    let sides = [("nodes_truenodeids", "nodes_trueleafs"), ("nodes_falsenodeids", "nodes_falseleafs")];
    let mut children = [Vec::new(), Vec::new()];
    for (side, (ids, leafs)) in children.iter_mut().zip(sides) {
        let (ids, leafs) = (node.list_of(ids, count)?, node.list_of(leafs, count)?);
        for (&id, &leaf) in ids.iter().zip(leafs) {
            let limit = if leaf != 0 { weights.len() } else { count };
            if !usize::try_from(id).is_ok_and(|id| id < limit) {
                return Err(Fault::bad(format!("a node has the child {id} of {limit}")));
            }
            side.push(if leaf != 0 { -1 - id } else { id });
        }
    }
    let mut tables = Tables::default();
    for index in 0..count {
        let mode = modes[index] as i64;
        if mode == MEMBER {
            let set =
                sets.next().ok_or_else(|| Fault::bad("fewer sets of members than nodes that ask for one"))?;
            tables.members.extend(set);
        }
        let pair = [children[0][index], children[1][index]];
        tables.node(features[index], mode, splits[index], missing[index] != 0, pair);
    }
    tables.targets = node.list_of("leaf_targetids", weights.len())?.to_vec();
    tables.leaf_ends = (1..=weights.len() as i64).collect();
    tables.weights = weights;
    tables.roots = node.attributes.required_ints("tree_roots")?.to_vec();
    Ok(tables)
}

/// The trees of the older operators, whose leaves vote by the attributes `{votes}_*`; and the targets that have votes.
fn old_tables(node: &mut Node<'_, '_>, votes: &str) -> Result<Tables, Fault> {
    node.attributes.ignore(&["nodes_hitrates", "nodes_hitrates_as_tensor"]);
    let modes = node
        .attributes
        .strings("nodes_modes")?
        .ok_or_else(|| Fault::bad("attribute `nodes_modes` is missing"))?;
    let count = modes.len();
    let splits = node.wide("nodes_values")?;
    if splits.len() != count {
        return Err(Fault::bad(format!("{} values for {count} nodes", splits.len())));
    }
    let missing = match node.attributes.ints("nodes_missing_value_tracks_true")? {
        Some(list) if !list.is_empty() => node.list_of("nodes_missing_value_tracks_true", count)?.to_vec(),
        _ => vec![0; count],
    };
    let (trees, ids) = (node.list_of("nodes_treeids", count)?, node.list_of("nodes_nodeids", count)?);
    let features = node.list_of("nodes_featureids", count)?;
    let children = [node.list_of("nodes_truenodeids", count)?, node.list_of("nodes_falsenodeids", count)?];
    let mut places = BTreeMap::new();
    for (index, key) in trees.iter().copied().zip(ids.iter().copied()).enumerate() {
        if places.insert(key, index).is_some() {
            return Err(Fault::bad(format!("tree {} has two nodes {}", key.0, key.1)));
        }
    }
    let mut tables = Tables::default();
    let mut leaf_votes = votes_by_leaf(node, votes)?;
    // Branches are numbered among themselves; leaf `l` is `-1 - l`.
    let mut codes = vec![0i64; count];
    let mut branches = 0;
    for (index, mode) in modes.iter().enumerate() {
        codes[index] = branches;
        if *mode == "LEAF" {
            codes[index] = -1 - tables.leaf_ends.len() as i64;
            for (target, weight) in leaf_votes.remove(&(trees[index], ids[index])).unwrap_or_default() {
                tables.targets.push(target);
                tables.weights.push(weight);
            }
            tables.leaf_ends.push(tables.targets.len() as i64);
        } else {
            branches += 1;
        }
    }
    if let Some(((tree, id), _)) = leaf_votes.first_key_value() {
        return Err(Fault::bad(format!("votes of node {id} of tree {tree}, which is no leaf")));
    }
    let mut is_child = vec![false; count];
    for (index, mode) in modes.iter().enumerate().filter(|(_, mode)| **mode != "LEAF") {
        let number = MODES.iter().position(|known| known == mode);
        let number = number.ok_or_else(|| Fault::bad(format!("the comparison {}", quote(mode))))? as i64;
        let mut pair = [0, 0];
        for (slot, list) in pair.iter_mut().zip(children) {
            let child = places.get(&(trees[index], list[index]));
            let child = *child
                .ok_or_else(|| Fault::bad(format!("tree {} has no node {}", trees[index], list[index])))?;
            (*slot, is_child[child]) = (codes[child], true);
        }
        tables.node(features[index], number, splits[index], missing[index] != 0, pair);
    }
    let roots = roots(&places, &is_child)?;
    tables.roots = roots.into_iter().map(|root| codes[root]).collect();
    Ok(tables)
}

/// The root of each tree: its node 0, or without one the only node that is nobody's child. Nodes that cannot be reached count for nothing.
fn roots(places: &BTreeMap<(i64, i64), usize>, is_child: &[bool]) -> Result<Vec<usize>, Fault> {
    let trees: BTreeSet<i64> = places.keys().map(|(tree, _)| *tree).collect();
    let root = |tree: i64| {
        let free = |index: &&usize| !is_child[**index];
        let found = match places.get(&(tree, 0)) {
            Some(index) => Some(index).filter(free),
            None => {
                let mut others = places.range((tree, i64::MIN)..=(tree, i64::MAX)).map(|(_, index)| index);
                let first = others.find(free);
                first.filter(|_| !others.any(|index| free(&index)))
            }
        };
        found.copied().ok_or_else(|| Fault::bad(format!("tree {tree} has no root: its nodes form a cycle")))
    };
    trees.into_iter().map(root).collect()
}

type Votes = BTreeMap<(i64, i64), Vec<(i64, f64)>>;

/// Targets and weights by tree and node.
fn votes_by_leaf(node: &mut Node<'_, '_>, votes: &str) -> Result<Votes, Fault> {
    let weights = node.wide(&format!("{votes}_weights"))?;
    let list = |name: &str| node.list_of(&format!("{votes}_{name}"), weights.len());
    let (trees, nodes, targets) = (list("treeids")?, list("nodeids")?, list("ids")?);
    let mut found = Votes::new();
    for (index, weight) in weights.iter().enumerate() {
        found.entry((trees[index], nodes[index])).or_default().push((targets[index], *weight));
    }
    Ok(found)
}

impl Node<'_, '_> {
    /// The input as rows in the dtype that trees compare in.
    fn tree_rows(&mut self) -> Result<ValueId, Fault> {
        let x = self.input(0)?;
        let dtype = if self.dtype(x) == DType::F64 { DType::F64 } else { DType::F32 };
        self.rows(x, dtype)
    }

    /// Scores with one number a column added.
    fn with_base(&mut self, scores: ValueId, base: &[f64]) -> Result<ValueId, Fault> {
        let base: Vec<f32> = base.iter().map(|&value| value as f32).collect();
        let base = self.constant(Tensor::from_slice(&base, &[base.len()])?);
        let base = self.cast(base, self.dtype(scores))?;
        self.binary(Binary::Add, scores, base)
    }

    fn column(&mut self, scores: ValueId, index: i64) -> Result<ValueId, Fault> {
        let [start, end, axis, step] = [index, index + 1, 1, 1].map(|element| self.ints(&[element]));
        self.add(Op::Slice(Slice {}), &[scores, start?, end?, axis?, step?])
    }
}

/// TreeEnsembleRegressor-1 and 3.
pub(crate) fn tree_ensemble_regressor(node: &mut Node<'_, '_>) -> Outputs {
    let words = [
        ("SUM", Aggregate::Sum),
        ("AVERAGE", Aggregate::Average),
        ("MIN", Aggregate::Min),
        ("MAX", Aggregate::Max),
    ];
    let aggregate = node.attributes.choice("aggregate_function", &words)?;
    let transform = node.transform()?;
    let targets = positive("n_targets", node.attributes.int_or("n_targets", 1)?)?;
    let base = node.wide("base_values")?;
    let x = node.tree_rows()?;
    let tables = old_tables(node, "target")?;
    let mut scores = tables.add(node, x, targets, aggregate)?;
    if base.len() == targets {
        scores = node.with_base(scores, &base)?;
    } else if !base.is_empty() {
        return Err(Fault::bad(format!("{} base values for {targets} targets", base.len())));
    }
    // A score alone has no other to be weighed against: onnxruntime transforms it by PROBIT only.
    let scores = match transform {
        Transform::None => scores,
        _ if targets == 1 && transform != Transform::Probit => scores,
        _ => node.transformed(scores, transform)?,
    };
    Ok(vec![node.cast(scores, DType::F32)?])
}

/// TreeEnsembleClassifier-1 and 3. Where the leaves of two classes vote for the first one only, its score is that of the second.
pub(crate) fn tree_ensemble_classifier(node: &mut Node<'_, '_>) -> Outputs {
    let labels = Labels::read(node, "classlabels_strings", "classlabels_int64s")?;
    let transform = node.transform()?;
    let base = node.wide("base_values")?;
    let x = node.tree_rows()?;
    let tables = old_tables(node, "class")?;
    let classes = labels.len();
    let mut voted: Vec<i64> = tables.targets.clone();
    voted.sort_unstable();
    voted.dedup();
    let probability = tables.weights.iter().all(|weight| *weight >= 0.0);
    let scores = tables.add(node, x, classes, Aggregate::Sum)?;
    if classes > 2 || (classes == 2 && voted.len() == 2) {
        let scores = match base.len() {
            0 => scores,
            count if count == classes => node.with_base(scores, &base)?,
            1 if classes == 2 => node.with_base(scores, &[base[0], 0.0])?,
            count => return Err(Fault::bad(format!("{count} base values for {classes} classes"))),
        };
        let candidates = if base.is_empty() { candidates(node, scores, &voted, classes)? } else { scores };
        let class = node.largest(candidates)?;
        let (label, scores) = (labels.of(node, class)?, node.transformed(scores, transform)?);
        return Ok(vec![label, node.cast(scores, DType::F32)?]);
    }
    let threshold = if probability { 0.5 } else { 0.0 };
    let offset = base.first().copied().unwrap_or(0.0);
    if classes == 2 && voted[..] == [1] {
        // Votes for the second class alone leave 0 to the first.
        let second = node.column(scores, 1)?;
        let class = node.above(second, threshold)?;
        let (label, scores) = (labels.of(node, class)?, node.transformed(scores, transform)?);
        return Ok(vec![label, node.cast(scores, DType::F32)?]);
    }
    let score = node.column(scores, 0)?;
    let score = node.with_base(score, &[offset])?;
    let class = node.above(score, if classes == 2 { threshold } else { 0.0 })?;
    let label = labels.of_two().of(node, class)?;
    let scores = match transform {
        _ if classes == 2 => node.both_classes(score, probability, transform)?,
        Transform::Probit => node.transformed(score, transform)?,
        _ => score,
    };
    Ok(vec![label, node.cast(scores, DType::F32)?])
}

/// Scores to choose a class by: classes that no leaf votes for are none.
fn candidates(
    node: &mut Node<'_, '_>,
    scores: ValueId,
    voted: &[i64],
    classes: usize,
) -> Result<ValueId, Fault> {
    if voted.len() == classes {
        return Ok(scores);
    }
    let known: Vec<bool> = (0..classes as i64).map(|class| voted.contains(&class)).collect();
    let known = node.constant(Tensor::from_bools(&known, &[classes])?);
    let nothing = node.number_like(scores, f64::NEG_INFINITY)?;
    node.add(Op::Where(Where {}), &[known, scores, nothing])
}
