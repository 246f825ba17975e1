//! Tests of whole imports, over models built here.
