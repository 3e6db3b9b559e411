package provision

// A Precondition judges the current entity tag of what is about to change, as
// an If-Match header asks. Nil means the caller set none.
type Precondition func(etag string) bool

// A Page bounds a listing. The zero After starts at the beginning.
type Page struct {
	After string // the key after which to go on
	Limit int    // at most this many
}
