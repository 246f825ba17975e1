//! Suppression of boxes that overlap better ones.

use lathe_tensor::Tensor;

use super::NonMaxSuppression;
use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};

/// Two corners, the lower one first.
#[derive(Clone, Copy)]
struct Corners {
    y: [f64; 2],
    x: [f64; 2],
}

impl Corners {
    fn area(&self) -> f64 {
        (self.y[1] - self.y[0]) * (self.x[1] - self.x[0])
    }

    /// Intersection over union; 0 where a box is empty.
    fn overlap(&self, other: &Self) -> f64 {
        let along = |a: [f64; 2], b: [f64; 2]| (a[1].min(b[1]) - a[0].max(b[0])).max(0.0);
        let common = along(self.y, other.y) * along(self.x, other.x);
        let (a, b) = (self.area(), other.area());
        if common > 0.0 && a > 0.0 && b > 0.0 { common / (a + b - common) } else { 0.0 }
    }
}

impl Evaluate for NonMaxSuppression {
    fn arity(&self) -> Arity {
        Arity::of(2, 5)
    }

    /// Inputs `boxes[batch, boxes, 4], scores[batch, classes, boxes], max_boxes?, iou_threshold?, score_threshold?`; the result
    /// is `[selected, 3]` of batch, class and box, by class, best first (ONNX NonMaxSuppression-11).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (boxes, scores) = (cx.input(0)?, cx.input(1)?);
        let (&[batch, count, 4], &[score_batch, classes, score_count]) = (boxes.shape(), scores.shape())
        else {
            return Err(cx.shape("boxes are not [batch, boxes, 4], or scores not [batch, classes, boxes]"));
        };
        if batch != score_batch || count != score_count {
            return Err(cx.shape("boxes and scores do not fit"));
        }
        let limit = cx.optional(2).map_or(Ok(0), |limit| cx.integer("max_output_boxes_per_class", limit))?;
        let number = |index: usize, name: &str| match cx.optional(index) {
            None => Ok(None),
            Some(tensor) => match cx.floats(name, tensor)?[..] {
                [value] => Ok(Some(value)),
                _ => Err(cx.shape(format!("{name} is not one number"))),
            },
        };
        let overlap = number(3, "iou_threshold")?.unwrap_or(0.0);
        let least = number(4, "score_threshold")?;
        let limit = usize::try_from(limit).unwrap_or(0);
        let (corners, scores) = (cx.floats("boxes", boxes)?, cx.floats("scores", scores)?);
        let mut selected: Vec<i64> = Vec::new();
        for class in 0..batch * classes {
            let boxes = &corners[class / classes * count * 4..][..count * 4];
            let scores = &scores[class * count..][..count];
            for index in
                self.select(cx, boxes, scores, [overlap, least.unwrap_or(f64::NEG_INFINITY)], limit)?
            {
                cx.spend(3 * size_of::<i64>())?;
                selected.extend([(class / classes) as i64, (class % classes) as i64, index as i64]);
            }
        }
        Ok(vec![cx.tensor_of(&selected, &[selected.len() / 3, 3])?])
    }
}

impl NonMaxSuppression {
    /// The boxes of one class that stay, best first; of equal scores the first box.
    fn select(
        &self,
        cx: &Context<'_>,
        boxes: &[f64],
        scores: &[f64],
        [overlap, least]: [f64; 2],
        limit: usize,
    ) -> Result<Vec<usize>, EvalError> {
        cx.spend(scores.len().saturating_mul(2 * size_of::<usize>()))?;
        let passes = |&index: &usize| least == f64::NEG_INFINITY || scores[index] > least;
        let mut order: Vec<usize> = (0..scores.len()).filter(passes).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut kept: Vec<(usize, Corners)> = Vec::new();
        for index in order {
            if kept.len() >= limit {
                break;
            }
            cx.work(kept.len() + 1)?;
            let corners = self.corners(&boxes[index * 4..][..4]);
            if kept.iter().all(|(_, better)| better.overlap(&corners) <= overlap) {
                kept.push((index, corners));
            }
        }
        Ok(kept.into_iter().map(|(index, _)| index).collect())
    }

    fn corners(&self, numbers: &[f64]) -> Corners {
        let around = |centre: f64, size: f64| [centre - size / 2.0, centre + size / 2.0];
        let ordered = |a: f64, b: f64| if a <= b { [a, b] } else { [b, a] };
        match self.center_point_box {
            true => Corners { x: around(numbers[0], numbers[2]), y: around(numbers[1], numbers[3]) },
            false => Corners { y: ordered(numbers[0], numbers[2]), x: ordered(numbers[1], numbers[3]) },
        }
    }
}
