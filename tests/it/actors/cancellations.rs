//! cancellations
