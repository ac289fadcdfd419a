package http

import (
	"net/http"
	"testing"

	"github.com/traefik/traefik/v3/pkg/recorded"
)

type recordedRoute struct {
	Rule     string `json:"rule"`
	Syntax   string `json:"syntax"`
	Priority int    `json:"priority"`
	Provider string `json:"provider"`
	Refused  bool   `json:"refused"`
}

type recordedRequest struct {
	Method  string              `json:"method"`
	Host    string              `json:"host"`
	Path    string              `json:"path"`
	Query   string              `json:"query"`
	Headers map[string][]string `json:"headers"`
	Client  string              `json:"client"`
	// Which route took it; -1: none.
	Route int `json:"route"`
}

// recordedMuxer tells what it was asked.
type recordedMuxer struct {
	*Muxer
	routes   []recordedRoute
	requests []recordedRequest
	taken    int
}

func newRecorded(t *testing.T, parser SyntaxParser, precedence []string) *recordedMuxer {
	t.Helper()
	muxer := &recordedMuxer{Muxer: NewMuxer(parser, precedence)}
	t.Cleanup(func() { recorded.Matching(t, muxer.routes, muxer.requests) })
	return muxer
}

func (m *recordedMuxer) AddRoute(rule, syntax string, priority int, provider string, handler http.Handler) error {
	number := len(m.routes)
	err := m.Muxer.AddRoute(rule, syntax, priority, provider, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.taken = number
		handler.ServeHTTP(w, r)
	}))
	m.routes = append(m.routes, recordedRoute{rule, syntax, priority, provider, err != nil})
	return err
}

func (m *recordedMuxer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.taken = -1
	m.Muxer.ServeHTTP(w, r)
	// Others never come from a client: Go's server writes all names in one form.
	headers := map[string][]string{}
	for name, values := range r.Header {
		if name == http.CanonicalHeaderKey(name) {
			headers[name] = values
		}
	}
	m.requests = append(m.requests, recordedRequest{
		r.Method, r.Host, r.URL.EscapedPath(), r.URL.RawQuery, headers, r.RemoteAddr, m.taken,
	})
}
