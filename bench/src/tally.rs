//! What became of what was published.

/// What became of what was published.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Published.
    pub(crate) sent: u64,
    /// Acknowledged.
    pub(crate) accepted: u64,
    /// Answered otherwise.
    pub(crate) refused: u64,
    /// Without an answer when the server ended the connection.
    pub(crate) unanswered: u64,
    /// The last answer that was no acknowledgement.
    pub(crate) last_refusal: Option<String>,
    /// The length of a good answer, once one was seen: all of a server's are alike.
    pub(crate) answer_bytes: usize,
    kinds: Vec<KindTally>,
}

/// The same of one type.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KindTally {
    /// Acknowledged.
    pub(crate) accepted: u64,
    /// Refused, or not answered.
    pub(crate) failed: u64,
    /// Of those, what may have been taken all the same.
    pub(crate) perhaps: u64,
}

impl Tally {
    /// Nothing yet, of so many types.
    pub(crate) fn new(kinds: usize) -> Self {
        Self { kinds: vec![KindTally::default(); kinds], ..Self::default() }
    }

    /// What became of a type.
    #[inline]
    pub(crate) fn kind(&self, kind: usize) -> KindTally {
        self.kinds.get(kind).copied().unwrap_or_default()
    }

    /// One of this type was acknowledged.
    #[inline]
    pub(crate) fn accept(&mut self, kind: Option<usize>) {
        self.accepted += 1;
        if let Some(tally) = kind.and_then(|kind| self.kinds.get_mut(kind)) {
            tally.accepted += 1;
        }
    }

    /// One was answered otherwise; perhaps it was taken all the same.
    pub(crate) fn refuse(&mut self, kind: Option<usize>, is_unknown: bool, answer: String) {
        self.refused += 1;
        self.last_refusal = Some(answer);
        self.fail(kind, is_unknown);
    }

    /// These get no answer any more.
    pub(crate) fn give_up(&mut self, kinds: impl Iterator<Item = usize>) {
        for kind in kinds {
            self.unanswered += 1;
            self.fail(Some(kind), true);
        }
    }

    fn fail(&mut self, kind: Option<usize>, is_unknown: bool) {
        if let Some(tally) = kind.and_then(|kind| self.kinds.get_mut(kind)) {
            tally.failed += 1;
            tally.perhaps += u64::from(is_unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_taken_is_told_from_what_was_not() {
        let mut tally = Tally::new(2);
        tally.accept(Some(1));
        tally.refuse(Some(1), false, "401".to_owned());
        tally.refuse(Some(1), true, "503".to_owned());
        tally.give_up([0, 1].into_iter());
        assert_eq!(tally.kind(1), KindTally { accepted: 1, failed: 3, perhaps: 2 });
        assert_eq!((tally.refused, tally.unanswered), (2, 2));
        assert_eq!(tally.kind(7), KindTally::default());
    }
}
