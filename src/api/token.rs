//! The token that every request carries: whoever can read the service's token file may operate it.

use crate::ports::random::Random;
use std::fmt::Write;

/// Random bytes of a token.
const BYTES: usize = 32;

/// A token. It is compared as a keyless hash, which takes the same time whatever differs.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token that nobody can guess.
    pub fn generate(random: &dyn Random) -> Self {
        let mut bytes = [0; BYTES];
        random.fill(&mut bytes);
        Self(bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    /// Reads a token as it is kept; `None` if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_token = text.len() == 2 * BYTES && text.bytes().all(|it| it.is_ascii_hexdigit());
        is_token.then(|| Self(text.to_owned()))
    }

    /// The token as it is kept and sent.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether an `Authorization` header carries it.
    pub(super) fn opens(&self, authorization: &str) -> bool {
        let given = authorization.strip_prefix("Bearer ").unwrap_or_default();
        blake3::hash(given.trim().as_bytes()) == blake3::hash(self.0.as_bytes())
    }
}

/// Never the token itself: it must not get into a log.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Counting;

    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.iter_mut().zip(0..).for_each(|(byte, nth)| *byte = nth);
        }
    }

    #[test]
    fn only_the_token_itself_opens() {
        let token = Token::generate(&Counting);
        assert!(token.opens(&format!("Bearer {}", token.text())));
        for wrong in ["", "Bearer ", "Bearer 00", token.text(), &format!("bearer {}", token.text())]
        {
            assert!(!token.opens(wrong), "{wrong}");
        }
        let mut other = token.text().to_owned();
        other.replace_range(63.., "0");
        assert!(!token.opens(&format!("Bearer {other}")));
    }

    #[test]
    fn a_token_is_read_back_as_it_was_kept() {
        let token = Token::generate(&Counting);
        let read = Token::parse(&format!("{}\n", token.text())).expect("it was kept");
        assert_eq!(read.text(), token.text());
        assert!(Token::parse("").is_none() && Token::parse(&"g".repeat(64)).is_none());
        assert_eq!(format!("{token:?}"), "Token");
    }
}
