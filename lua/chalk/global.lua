-- The client behind `require "chalk"`. All code of a VM shares it. All VMs of a process that use it share one segment.

return require("chalk.client").new "chalk"
