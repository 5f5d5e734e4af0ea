// Does the work with github.com/prometheus/client_golang. "and native" adds a native histogram to the buckets, with the
// factor and limit that the documentation recommends, because that comes closest to a sketch.
package main

import (
	"bytes"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"peers/work"
)

var tags = []string{"endpoint", "status"}

var registry = prometheus.NewRegistry()

func counters(name string) *prometheus.CounterVec {
	vector := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: "help"}, tags)
	registry.MustRegister(vector)
	return vector
}

func histograms(name string, native bool) *prometheus.HistogramVec {
	options := prometheus.HistogramOpts{Name: name, Help: "help", Buckets: work.Buckets}
	if native {
		options.NativeHistogramBucketFactor = 1.1
		options.NativeHistogramMaxBucketNumber = 160
	}
	vector := prometheus.NewHistogramVec(options, tags)
	registry.MustRegister(vector)
	return vector
}

// total returns the sum of all counters and of all histograms' counts with this name.
func total(name string) uint64 {
	families, err := registry.Gather()
	if err != nil {
		panic(err)
	}
	var sum uint64
	for _, family := range families {
		if family.GetName() == name {
			for _, metric := range family.Metric {
				sum += uint64(metric.GetCounter().GetValue()) + metric.GetHistogram().GetSampleCount()
			}
		}
	}
	return sum
}

func kept(seconds float64) {
	count := counters("kept").WithLabelValues("/api", "success")
	measure := work.Time(seconds, func(n int) {
		for i := range n {
			count.Add(float64(work.Steps[i&work.Last]))
		}
	})
	work.Check(measure.Total, total("kept"))
	work.Print("handle", measure.Ns)
}

func gauge(seconds float64) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "temperature", Help: "help"})
	registry.MustRegister(gauge)
	work.Print("handle", work.Time(seconds, func(n int) {
		for i := range n {
			gauge.Set(work.Values[i&work.Last])
		}
	}).Ns)
}

func addAll(vector *prometheus.CounterVec) func(n int) {
	return func(n int) {
		for i := range n {
			j := i & work.Last
			vector.WithLabelValues(work.Endpoints[j], work.Statuses[j]).Add(float64(work.Steps[j]))
		}
	}
}

func observeAll(vector *prometheus.HistogramVec) func(n int) {
	return func(n int) {
		for i := range n {
			j := i & work.Last
			v := work.Values[(i+i>>10)&work.Last]
			vector.WithLabelValues(work.Endpoints[j], work.Statuses[j]).Observe(v)
		}
	}
}

func count80(seconds float64) {
	measure := work.Time(seconds, addAll(counters("requests")))
	work.Check(measure.Total, total("requests"))
	work.Print("WithLabelValues", measure.Ns)
	vector := counters("labelled")
	work.Print("With(Labels)", work.Time(seconds, func(n int) {
		for i := range n {
			j := i & work.Last
			labels := prometheus.Labels{"endpoint": work.Endpoints[j], "status": work.Statuses[j]}
			vector.With(labels).Add(float64(work.Steps[j]))
		}
	}).Ns)
}

// each calls f with classic histograms, and with histograms that are classic and native.
func each(f func(vector *prometheus.HistogramVec, name, suffix string)) {
	f(histograms("latency", false), "latency", "")
	f(histograms("native", true), "native", ", and native")
}

func histogramKept(seconds float64) {
	each(func(vector *prometheus.HistogramVec, name, suffix string) {
		kept := vector.WithLabelValues("/api", "success")
		measure := work.Time(seconds, func(n int) {
			for i := range n {
				kept.Observe(work.Values[i&work.Last])
			}
		})
		work.Check(measure.Count, total(name))
		work.Print("handle"+suffix, measure.Ns)
	})
}

func histogram80(seconds float64) {
	each(func(vector *prometheus.HistogramVec, name, suffix string) {
		measure := work.Time(seconds, observeAll(vector))
		work.Check(measure.Count, total(name))
		work.Print("WithLabelValues"+suffix, measure.Ns)
	})
}

func threads(seconds float64, name string) {
	if name == "threads_count_80" {
		measure := work.TimeThreads(seconds, addAll(counters("requests")))
		work.Check(2*measure.Total, total("requests"))
		work.Print("WithLabelValues", measure.Ns)
		return
	}
	each(func(vector *prometheus.HistogramVec, name, suffix string) {
		measure := work.TimeThreads(seconds, observeAll(vector))
		work.Check(2*measure.Count, total(name))
		work.Print("WithLabelValues"+suffix, measure.Ns)
	})
}

func text(seconds float64, n int) {
	requests, latency := counters("requests"), histograms("latency", false)
	temperature := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "temperature", Help: "help"}, tags)
	registry.MustRegister(temperature)
	for i, endpoint := range work.Resources(n) {
		status := work.Status(i)
		switch i % 3 {
		case 0:
			requests.WithLabelValues(endpoint, status).Add(float64(i * 7919))
		case 1:
			temperature.WithLabelValues(endpoint, status).Set(float64(i) * 0.37)
		default:
			for k := 1; k <= 5; k++ {
				latency.WithLabelValues(endpoint, status).Observe(0.001 * float64(k*(i%50+1)))
			}
		}
	}
	work.PrintText("Gather and expfmt", seconds, func(out *bytes.Buffer) {
		families, err := registry.Gather()
		encoder := expfmt.NewEncoder(out, expfmt.NewFormat(expfmt.TypeTextPlain))
		for _, family := range families {
			err = encodeOr(err, encoder, family)
		}
		if err != nil {
			panic(err)
		}
	})
}

func encodeOr(err error, encoder expfmt.Encoder, family *dto.MetricFamily) error {
	if err != nil {
		return err
	}
	return encoder.Encode(family)
}

func memoryHistogram(values []float64) {
	each(func(vector *prometheus.HistogramVec, name, suffix string) {
		bytes := work.Memory(work.Histograms, func(resources []string) {
			for i, endpoint := range resources {
				series := vector.WithLabelValues(endpoint, work.Status(i))
				for _, v := range values {
					series.Observe(v)
				}
			}
		})
		work.Print("resident"+suffix, bytes)
	})
}

func main() {
	name, seconds := work.Arguments()
	switch name {
	case "empty":
		work.Print("loop", work.Empty(seconds))
	case "count_kept":
		kept(seconds)
	case "gauge_kept":
		gauge(seconds)
	case "count_80":
		count80(seconds)
	case "histogram_kept":
		histogramKept(seconds)
	case "histogram_80":
		histogram80(seconds)
	case "threads_count_80", "threads_histogram_80":
		threads(seconds, name)
	case "new_count":
		work.Print("WithLabelValues", work.TimeNew(func(name string, resources []string) {
			vector := counters(name)
			for i, endpoint := range resources {
				vector.WithLabelValues(endpoint, work.Status(i)).Inc()
			}
		}))
	case "text_1000":
		text(seconds, 1000)
	case "text_100000":
		text(seconds, 100000)
	case "memory_count":
		vector := counters("memory")
		work.Print("resident", work.Memory(work.Counts, func(resources []string) {
			for i, endpoint := range resources {
				vector.WithLabelValues(endpoint, work.Status(i)).Inc()
			}
		}))
	case "memory_histogram_1":
		memoryHistogram(work.Recorded(1))
	case "memory_histogram_1000":
		memoryHistogram(work.Recorded(1000))
	default:
		fmt.Print()
	}
}
