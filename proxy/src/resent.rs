//! Which of the segments that a connection to an upstream has sent again were one exchange's, told from the connection's own
//! count where no probe tells the bytes. Pure.

use crate::observer::Account;

/// What the count was when it was looked at last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resent {
    /// Exchanges begun.
    begun: u32,
    /// The one in which the count was read last; 0: never.
    read_in: u32,
    segments: u32,
}

impl Resent {
    /// An exchange begins.
    pub(crate) fn begin(&mut self) {
        self.begun = self.begun.wrapping_add(1);
    }

    /// The exchange's answer is here: so its request has arrived, and whatever was sent again since the answer before was
    /// its. Zero where that cannot be told: the count was not read in the exchange before (which was not sampled), or it
    /// begins with a handshake's segments among them.
    pub(crate) fn of_exchange(&mut self, account: Account) -> u32 {
        let before = *self;
        *self = Self { read_in: before.begun, segments: account.resent, ..before };
        let has_base = before.read_in != 0 && before.begun.wrapping_sub(before.read_in) <= 1;
        if has_base { account.resent.wrapping_sub(before.segments) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(resent: u32) -> Account {
        Account { resent, ..Account::default() }
    }

    #[test]
    fn an_exchange_has_what_was_sent_again_since_the_answer_before() {
        let mut resent = Resent::default();
        let mut exchange = |read: Option<Account>| {
            resent.begin();
            read.map(|account| resent.of_exchange(account))
        };
        // Two of a handshake's, or of the first request: nobody knows.
        assert_eq!(exchange(Some(account(2))), Some(0));
        assert_eq!(exchange(Some(account(2))), Some(0));
        assert_eq!(exchange(Some(account(5))), Some(3));
        // Not sampled: what comes next may be the one's or the other's.
        assert_eq!(exchange(None), None);
        assert_eq!(exchange(Some(account(9))), Some(0));
        assert_eq!(exchange(Some(account(10))), Some(1));
    }

    #[test]
    fn a_first_exchanges_segments_are_not_told_from_the_handshakes() {
        let mut resent = Resent::default();
        resent.begin();
        assert_eq!(resent.of_exchange(account(3)), 0);
    }
}
