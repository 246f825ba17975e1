use serde_json::json;

use super::*;

#[test]
fn points_of_a_picture() {
    let x = f(&[1, 1, 2, 2], &[0.0, 1.0, 2.0, 3.0]);
    let attributes = |interpolation: &str, border: &str, align: bool| json!({"interpolation": interpolation, "border": border, "align_corners": align});
    // The centre, the upper right corner's pixel, and a point far outside.
    let grid = f(&[1, 1, 3, 2], &[0.0, 0.0, 1.0, -1.0, 9.0, 9.0]);
    let y = |values: &[f32]| f(&[1, 1, 1, 3], values);
    check("grid_sample", attributes("linear", "zeros", true), &[&x, &grid], &[y(&[1.5, 1.0, 0.0])]);
    check("grid_sample", attributes("linear", "clamp", true), &[&x, &grid], &[y(&[1.5, 1.0, 3.0])]);
    check("grid_sample", attributes("linear", "zeros", false), &[&x, &grid], &[y(&[1.5, 0.25, 0.0])]);
    check("grid_sample", attributes("nearest", "reflect", true), &[&x, &grid], &[y(&[0.0, 1.0, 3.0])]);
    let ramp = f(&[1, 1, 1, 4], &[0.0, 1.0, 2.0, 3.0]);
    let middle = f(&[1, 1, 1, 2], &[0.0, 0.0]);
    check("grid_sample", attributes("cubic", "clamp", true), &[&ramp, &middle], &[f(&[1, 1, 1, 1], &[1.5])]);
    refuse(
        "grid_sample",
        attributes("linear", "zeros", true),
        &[&x, &f(&[1, 3, 2], &[0.0; 6])],
        "do not fit",
    );
}

#[test]
fn regular_grids() {
    let theta = f(&[1, 2, 3], &[1.0, 0.0, 0.5, 0.0, 2.0, 0.0]);
    let size = i(&[4], &[1, 1, 2, 1]);
    let y = f(&[1, 2, 1, 2], &[0.5, -1.0, 0.5, 1.0]);
    check("affine_grid", json!({"align_corners": false}), &[&theta, &size], &[y]);
    let y = f(&[1, 2, 1, 2], &[-0.5, -2.0, -0.5, 2.0]);
    check("affine_grid", json!({"align_corners": true}), &[&theta, &size], &[y]);
    refuse("affine_grid", json!({"align_corners": true}), &[&theta, &i(&[3], &[1; 3])], "2 or 3 axes");
}

#[test]
fn regions_of_a_picture() {
    let x = count(&[1, 1, 4, 4]);
    let (boxes, index) = (f(&[1, 4], &[0.0, 0.0, 2.0, 2.0]), i(&[1], &[0]));
    let attributes =
        json!({"size": [1, 2], "sampling": 1, "spatial_scale": 1.0, "max": false, "half_pixel": false});
    check("roi_align", attributes.clone(), &[&x, &boxes, &index], &[f(&[1, 1, 1, 2], &[4.5, 5.5])]);
    refuse("roi_align", attributes, &[&x, &boxes, &i(&[1], &[1])], "index 1");
    let regions = f(&[2, 5], &[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 2.0, 2.0, 9.0, 9.0]);
    let attributes = json!({"size": [1, 1], "spatial_scale": 1.0});
    check("max_roi_pool", attributes, &[&x, &regions], &[f(&[2, 1, 1, 1], &[5.0, 15.0])]);
}

#[test]
fn boxes_that_overlap() {
    let boxes = f(&[1, 3, 4], &[0.0, 0.0, 1.0, 1.0, 0.0, 0.1, 1.0, 1.1, 5.0, 5.0, 6.0, 6.0]);
    let scores = f(&[1, 1, 3], &[0.5, 0.9, 0.6]);
    let (limit, overlap, least) = (i(&[], &[9]), f(&[], &[0.5]), f(&[], &[0.0]));
    let inputs = [&boxes, &scores, &limit, &overlap, &least];
    let corners = json!({"center_point_box": false});
    check("non_max_suppression", corners.clone(), &inputs, &[i(&[2, 3], &[0, 0, 1, 0, 0, 2])]);
    // Without a limit nothing is selected.
    check("non_max_suppression", corners, &[&boxes, &scores], &[i(&[0, 3], &[])]);
    let centres = json!({"center_point_box": true});
    refuse("non_max_suppression", centres, &[&boxes, &f(&[1, 1, 2], &[0.0; 2])], "do not fit");
}

#[test]
fn columns_and_files() {
    let x = count(&[1, 2, 3]);
    let attributes = json!({"strides": [], "dilations": [], "pads": []});
    let y = f(&[1, 1, 1, 4], &[0.0, 4.0, 6.0, 5.0]);
    check("col2im", attributes.clone(), &[&x, &i(&[2], &[1, 4]), &i(&[2], &[1, 2])], &[y]);
    refuse("col2im", attributes, &[&x, &i(&[2], &[1, 5]), &i(&[2], &[1, 2])], "4 blocks");
    let pixels = of(&[17], b"P6 2 1 255\n\x01\x02\x03\x04\x05\x06");
    check("image_decoder", json!({"pixels": "rgb"}), &[&pixels], &[of(&[1, 2, 3], &[1u8, 2, 3, 4, 5, 6])]);
    check("image_decoder", json!({"pixels": "bgr"}), &[&pixels], &[of(&[1, 2, 3], &[3u8, 2, 1, 6, 5, 4])]);
    refuse("image_decoder", json!({"pixels": "rgb"}), &[&of(&[3], b"P6 ")], "cannot be read");
    let huge = of(&[19], b"P6 60000 60000 255\n");
    refuse("image_decoder", json!({"pixels": "grayscale"}), &[&huge], "over the limit");
}
