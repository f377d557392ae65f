//! fleet's units, machines, schedules, wire shapes and planners.
