// Package recorded writes what Traefik's tests were given and what came of it, a line of JSON for each test, into the file that
// FIXTURES_RECORD names.
package recorded

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

var (
	lock sync.Mutex
	read = map[string][]string{}
)

// ReadFile reads a fixture for a test.
func ReadFile(t *testing.T, name string) ([]byte, error) {
	lock.Lock()
	defer lock.Unlock()
	read[t.Name()] = append(read[t.Name()], filepath.Clean(name))
	return os.ReadFile(name)
}

// Configuration writes down what a provider made of the fixtures that its test read.
func Configuration(t *testing.T, provider string, fixtures []string, settings, configuration any) {
	lock.Lock()
	fixtures = append(fixtures, read[t.Name()]...)
	lock.Unlock()
	write(t, map[string]any{
		"provider": provider, "test": t.Name(), "fixtures": fixtures, "settings": settings, "configuration": configuration,
	})
}

// Matching writes down which routes took which requests.
func Matching(t *testing.T, routes, requests any) {
	write(t, map[string]any{"test": t.Name(), "routes": routes, "requests": requests})
}

func write(t *testing.T, line any) {
	text, err := json.Marshal(line)
	if err != nil {
		t.Fatalf("what was recorded cannot be written: %v", err)
	}
	lock.Lock()
	defer lock.Unlock()
	file, err := os.OpenFile(os.Getenv("FIXTURES_RECORD"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("the record: %v", err)
	}
	defer file.Close()
	if _, err := file.Write(append(text, '\n')); err != nil {
		t.Fatalf("the record: %v", err)
	}
}
