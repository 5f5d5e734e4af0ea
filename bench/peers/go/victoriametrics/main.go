// Does the work with github.com/VictoriaMetrics/metrics. A metric with labels is found by its full name with labels,
// which is formatted for each record; "name kept" formats the 80 names beforehand. Bounds of its histograms cannot be
// chosen.
package main

import (
	"bytes"
	"fmt"
	"runtime"

	"github.com/VictoriaMetrics/metrics"

	"peers/work"
)

var set = metrics.NewSet()

func name(family, endpoint, status string) string {
	return family + `{endpoint="` + endpoint + `",status="` + status + `"}`
}

var names [2][work.Length]string

func init() {
	for i := range work.Length {
		names[0][i] = name("requests", work.Endpoints[i], work.Statuses[i])
		names[1][i] = name("latency", work.Endpoints[i], work.Statuses[i])
	}
}

func sprintf(family string, j int) string {
	return fmt.Sprintf(`%s{endpoint=%q,status=%q}`, family, work.Endpoints[j], work.Statuses[j])
}

func totalOfCounts() uint64 {
	seen, sum := map[string]bool{}, uint64(0)
	for _, name := range names[0] {
		if !seen[name] {
			sum += set.GetOrCreateCounter(name).Get()
		}
		seen[name] = true
	}
	return sum
}

func addAll(n int) {
	for i := range n {
		j := i & work.Last
		set.GetOrCreateCounter(names[0][j]).Add(work.Steps[j])
	}
}

func observeAll(n int) {
	for i := range n {
		set.GetOrCreateHistogram(names[1][i&work.Last]).Update(work.Values[(i+i>>10)&work.Last])
	}
}

func totalOfHistograms() uint64 {
	seen, sum := map[string]bool{}, uint64(0)
	for _, name := range names[1] {
		if !seen[name] {
			set.GetOrCreateHistogram(name).VisitNonZeroBuckets(func(_ string, count uint64) { sum += count })
		}
		seen[name] = true
	}
	return sum
}

func count80(seconds float64) {
	measure := work.Time(seconds, addAll)
	work.Check(measure.Total, totalOfCounts())
	work.Print("GetOrCreate, name kept", measure.Ns)
	work.Print("GetOrCreate, Sprintf", work.Time(seconds, func(n int) {
		for i := range n {
			j := i & work.Last
			set.GetOrCreateCounter(sprintf("requests", j)).Add(work.Steps[j])
		}
	}).Ns)
}

func histogram80(seconds float64) {
	measure := work.Time(seconds, observeAll)
	work.Check(measure.Count, totalOfHistograms())
	work.Print("GetOrCreate, name kept", measure.Ns)
	work.Print("GetOrCreate, Sprintf", work.Time(seconds, func(n int) {
		for i := range n {
			set.GetOrCreateHistogram(sprintf("latency", i&work.Last)).Update(work.Values[(i+i>>10)&work.Last])
		}
	}).Ns)
}

func text(seconds float64, n int) {
	for i, endpoint := range work.Resources(n) {
		status := work.Status(i)
		switch i % 3 {
		case 0:
			set.GetOrCreateCounter(name("requests", endpoint, status)).Add(i * 7919)
		case 1:
			set.GetOrCreateGauge(name("temperature", endpoint, status), nil).Set(float64(i) * 0.37)
		default:
			for k := 1; k <= 5; k++ {
				set.GetOrCreateHistogram(name("latency", endpoint, status)).Update(0.001 * float64(k*(i%50+1)))
			}
		}
	}
	work.PrintText("WritePrometheus", seconds, func(out *bytes.Buffer) { set.WritePrometheus(out) })
}

func memoryHistogram(values []float64) {
	work.Print("resident", work.Memory(work.Histograms, func(resources []string) {
		for i, endpoint := range resources {
			series := set.GetOrCreateHistogram(name("memory", endpoint, work.Status(i)))
			for _, v := range values {
				series.Update(v)
			}
		}
	}))
}

func main() {
	work_, seconds := work.Arguments()
	switch work_ {
	case "empty":
		work.Print("loop", work.Empty(seconds))
	case "count_kept":
		kept := set.NewCounter(`kept{endpoint="/api",status="success"}`)
		measure := work.Time(seconds, func(n int) {
			for i := range n {
				kept.Add(work.Steps[i&work.Last])
			}
		})
		work.Check(measure.Total, kept.Get())
		work.Print("handle", measure.Ns)
	case "gauge_kept":
		kept := set.NewGauge(`temperature{endpoint="/api"}`, nil)
		work.Print("handle", work.Time(seconds, func(n int) {
			for i := range n {
				kept.Set(work.Values[i&work.Last])
			}
		}).Ns)
	case "count_80":
		count80(seconds)
	case "histogram_kept":
		kept := set.NewHistogram(`latency{endpoint="/api",status="success"}`)
		work.Print("handle", work.Time(seconds, func(n int) {
			for i := range n {
				kept.Update(work.Values[i&work.Last])
			}
		}).Ns)
	case "histogram_80":
		histogram80(seconds)
	case "threads_count_80":
		measure := work.TimeThreads(seconds, addAll)
		work.Check(2*measure.Total, totalOfCounts())
		work.Print("GetOrCreate, name kept", measure.Ns)
	case "threads_histogram_80":
		measure := work.TimeThreads(seconds, observeAll)
		work.Check(2*measure.Count, totalOfHistograms())
		work.Print("GetOrCreate, name kept", measure.Ns)
	case "new_count":
		work.Print("GetOrCreate", work.TimeNew(func(family string, resources []string) {
			for i, endpoint := range resources {
				set.GetOrCreateCounter(name(family, endpoint, work.Status(i))).Inc()
			}
		}))
	case "text_1000":
		text(seconds, 1000)
	case "text_100000":
		text(seconds, 100000)
	case "memory_count":
		work.Print("resident", work.Memory(work.Counts, func(resources []string) {
			for i, endpoint := range resources {
				set.GetOrCreateCounter(name("memory", endpoint, work.Status(i))).Inc()
			}
		}))
	case "memory_histogram_1":
		memoryHistogram(work.Recorded(1))
	case "memory_histogram_1000":
		memoryHistogram(work.Recorded(1000))
	}
	runtime.KeepAlive(set)
}
