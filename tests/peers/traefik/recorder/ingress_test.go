package ingress

import (
	"testing"

	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/recorded"
)

func loadRecorded(t *testing.T, p *Provider, client Client) *dynamic.Configuration {
	t.Helper()
	conf := p.loadConfigurationFromIngresses(t.Context(), client)
	var fixtures []string
	if mock, ok := client.(clientMock); ok {
		fixtures = append(fixtures, mock.fixture)
	}
	settings := map[string]any{
		"provider": p, "defaultRuleSyntax": p.DefaultRuleSyntax, "restrictsProviders": p.CrossProviderNamespaces != nil,
	}
	recorded.Configuration(t, "ingress", fixtures, settings, conf)
	return conf
}
