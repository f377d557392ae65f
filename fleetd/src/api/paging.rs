//! Pages and their tokens: URL-safe base64 of two little-endian numbers of 16 bits, the page size
//! and the page, from 1.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use super::Reply;
use super::request::query_values;

/// A page asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    limit: u16,
    number: u16,
}

impl Page {
    /// Reads the token of a query, or gives the first page.
    pub(super) fn from_query(query: &str, limit: u16) -> Result<Self, Reply> {
        let tokens = query_values(query, "nextPageToken");
        match &tokens[..] {
            [] => Ok(Self { limit, number: 1 }),
            [token] => Self::decode(token, limit),
            _ => Err(Reply::bad_request("too many values for nextPageToken")),
        }
    }

    fn decode(token: &str, limit: u16) -> Result<Self, Reply> {
        let bytes = URL_SAFE.decode(token).unwrap_or_default();
        let [l0, l1, p0, p1] = bytes[..] else {
            return Err(Reply::bad_request("invalid value for nextPageToken"));
        };
        let page = Self {
            limit: u16::from_le_bytes([l0, l1]),
            number: u16::from_le_bytes([p0, p1]),
        };
        if page.limit != limit || page.number == 0 {
            return Err(Reply::bad_request("invalid value for nextPageToken"));
        }
        Ok(page)
    }

    /// How many items a page has.
    pub(super) fn limit(self) -> usize {
        self.limit.into()
    }

    /// Its number, from 1.
    pub(super) fn number(self) -> u16 {
        self.number
    }

    /// The items on this page, and the token of the next one.
    pub(super) fn cut<T>(self, items: Vec<T>) -> (Vec<T>, String) {
        let skip = self.limit() * usize::from(self.number - 1);
        let full = items.len() >= skip + self.limit();
        let page = items.into_iter().skip(skip).take(self.limit()).collect();
        (page, self.next_token(full))
    }

    /// The token of the next page. A full page has one, even if that turns out empty.
    pub(super) fn next_token(self, full: bool) -> String {
        let next = self.number.checked_add(1).filter(|_| full);
        next.map_or_else(String::new, |number| Self { number, ..self }.encode())
    }

    fn encode(self) -> String {
        let [l0, l1] = self.limit.to_le_bytes();
        let [p0, p1] = self.number.to_le_bytes();
        URL_SAFE.encode([l0, l1, p0, p1])
    }
}

/// The page that a query asks for, if its token is one of ours. For fuzzing; the API answers with
/// what is wrong.
#[must_use]
pub fn page_number(query: &str, limit: u16) -> Option<u16> {
    let page = Page::from_query(query, limit).ok()?;
    Some(page.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lead_through_all_pages() {
        let items: Vec<u32> = (0..5).collect();
        let first = Page::from_query("", 2).unwrap();
        let (page, token) = first.cut(items.clone());
        assert_eq!((page, token.as_str()), (vec![0, 1], "AgACAA=="));
        let third = Page::from_query("nextPageToken=AgADAA%3D%3D", 2).unwrap();
        assert_eq!(third.cut(items), (vec![4], String::new()));
        // An exact multiple ends in an empty page.
        let (page, token) = first.cut(vec![1, 2]);
        assert_eq!(page.len(), 2);
        let last = Page::decode(&token, 2).unwrap();
        assert_eq!(last.cut(vec![1, 2]), (vec![], String::new()));
    }

    #[test]
    fn bad_tokens_are_refused() {
        for query in [
            "nextPageToken=",
            "nextPageToken=!!",
            "nextPageToken=AgACAA",
            "nextPageToken=AwACAA==",
            "nextPageToken=AgAAAA==",
            "nextPageToken=AgACAA==&nextPageToken=AgACAA==",
        ] {
            assert!(Page::from_query(query, 2).is_err(), "{query}");
        }
    }
}
