//! Recipes: what an image consists of.
