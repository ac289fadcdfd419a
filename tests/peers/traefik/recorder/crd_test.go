package crd

import (
	"testing"

	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/recorded"
)

func loadRecorded(t *testing.T, p *Provider, client Client) *dynamic.Configuration {
	t.Helper()
	conf := p.loadConfigurationFromCRD(t.Context(), client)
	settings := map[string]any{"provider": p, "restrictsProviders": p.CrossProviderNamespaces != nil}
	recorded.Configuration(t, "crd", nil, settings, conf)
	return conf
}
