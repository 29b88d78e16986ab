//! A multipart form, read whole before it is parsed.
//!
//! The parser (multer) takes a stream for torn when its last part and its end arrive while it looks at an earlier one
//! (rwf2/multer#70). A stop must not depend on how the network cut it into pieces, and a form here is small.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tagout_proto::sentence::sentence;

use super::problem::Problem;

pub struct WholeForm(pub Multipart);

pub enum FormRejection {
    NotMultipart,
    Body(Problem),
}

impl IntoResponse for FormRejection {
    fn into_response(self) -> Response {
        match self {
            Self::Body(problem) => problem.into_response(),
            Self::NotMultipart => {
                Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-multipart", "send multipart/form-data")
                    .into_response()
            }
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for WholeForm {
    type Rejection = FormRejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, FormRejection> {
        let (parts, body) = request.into_parts();
        let bytes = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await;
        let bytes = bytes.map_err(|rejection| {
            let (code, detail) = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    ("too-large", "the whole request is larger than any command can be".into())
                }
                _ => (
                    "bad-request",
                    format!("the request's body did not arrive whole: {}", sentence(rejection.body_text())),
                ),
            };
            FormRejection::Body(Problem::new(rejection.status(), code, detail))
        })?;
        let form = Multipart::from_request(Request::from_parts(parts, Body::from(bytes)), state).await;
        form.map(Self).map_err(|_| FormRejection::NotMultipart)
    }
}
