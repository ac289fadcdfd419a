// Pins the Prometheus operator for its resource definitions: the API server of the cluster's tests takes the chart's objects of
// those kinds by them. Nothing of it is built.
module wayspan/tests/peers/prometheus-operator

go 1.24

require github.com/prometheus-operator/prometheus-operator v0.85.0
