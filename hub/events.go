package hub

import "time"

// enqueuedText is how the system property enqueuedtime has a time.
func enqueuedText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }
