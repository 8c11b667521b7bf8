//! PCRs: event logs, prediction, explanation, policy digests.
