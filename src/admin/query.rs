//! The query of an admin page.

use actix_web::{HttpRequest, web};
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};

use super::access::reject;
use crate::failure::{Failure, Rejection};

/// A switch: `follow=1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flag(bool);

impl Flag {
    pub fn is_set(self) -> bool {
        self.0
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "1" | "true" | "" => Ok(Self(true)),
            "0" | "false" => Ok(Self(false)),
            other => Err(D::Error::custom(format!("expected 0 or 1, not {other:?}"))),
        }
    }
}

/// Returns the parameters of a request.
pub fn query_of<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Rejection> {
    let query = request.query_string();
    let parse = |text| web::Query::<T>::from_query(text);
    parse(query).map(web::Query::into_inner).map_err(|error| {
        let error = match error {
            actix_web::error::QueryPayloadError::Deserialize(error) => error.to_string(),
            error => error.to_string(),
        };
        let why = match query.split('&').find(|parameter| parse(parameter).is_err()) {
            Some(parameter) => format!("{parameter}: {error}"),
            None => error,
        };
        reject(request, Failure::BadQuery { why })
    })
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        tail: Option<usize>,
        #[serde(default)]
        follow: Flag,
    }

    fn parse(query: &str) -> Result<Wanted, String> {
        let request = TestRequest::with_uri(&format!("/debug/logs?{query}")).to_http_request();
        query_of(&request).map_err(|rejection| rejection.failure.to_string())
    }

    #[test]
    fn parameters_are_checked() {
        assert_eq!(parse("tail=5&follow=1"), Ok(Wanted { tail: Some(5), follow: Flag(true) }));
        assert_eq!(parse("follow"), Ok(Wanted { tail: None, follow: Flag(true) }));
        assert_eq!(parse("follow=0"), Ok(Wanted { tail: None, follow: Flag(false) }));
        for (query, hint) in
            [("follow=0&tail=x", "tail=x: invalid digit"), ("follow=maybe", "maybe"), ("fellow=1", "fellow")]
        {
            assert!(parse(query).unwrap_err().contains(hint), "{query}: {:?}", parse(query));
        }
    }
}
